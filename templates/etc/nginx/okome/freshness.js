// Managed by the okome repository; changes made here are lost.
// What nginx's own cache does not read in an answer, said in words that it does read, on the way from the origin to
// the cache (conf.d/okome-fetch.conf): X-Accel-Expires, in seconds from now.

const DAY = '(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)';
const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];
const TIME = '(\\d\\d):(\\d\\d):(\\d\\d)';
const IMF = new RegExp('^' + DAY + ', (\\d\\d) ([A-Z][a-z]{2}) (\\d{4}) ' + TIME + ' GMT$', 'i');
const RFC850 = new RegExp('^[A-Z][a-z]+day, (\\d\\d)-([A-Z][a-z]{2})-(\\d\\d) ' + TIME + ' GMT$', 'i');
const ASCTIME = new RegExp('^' + DAY + ' ([A-Z][a-z]{2}) ([ \\d]\\d) ' + TIME + ' (\\d{4})$', 'i');

// Seconds since 1970, NaN if it is none of the three forms of a date (RFC 9110, 5.6.7).
function seconds(text) {
    let day, month, year, clock;
    let found = IMF.exec(text) || RFC850.exec(text);
    if (found) {
        day = found[1], month = found[2], year = Number(found[3]), clock = found.slice(4, 7);
        year += year > 99 ? 0 : year < 70 ? 2000 : 1900;
    } else if ((found = ASCTIME.exec(text))) {
        month = found[1], day = found[2], clock = found.slice(3, 6), year = Number(found[6]);
    } else {
        return NaN;
    }
    const number = MONTHS.indexOf(month[0].toUpperCase() + month.slice(1).toLowerCase());
    const midnight = new Date(Date.UTC(year, number, Number(day)));
    if (number < 0 || midnight.getUTCDate() !== Number(day) || clock[0] > 23 || clock[1] > 59 || clock[2] > 60) {
        return NaN;  // no such day, or no such time of it
    }
    return midnight / 1000 + Number(clock[0]) * 3600 + Number(clock[1]) * 60 + Number(clock[2]);
}

const MEMBER = new RegExp('^\\s*([a-z*][a-z0-9_.*-]*)'
    + '(?:=(-?\\d{1,15}|"[^"]*"|[A-Za-z*][\\w:/!#$%&\'*+.^`|~-]*|\\?[01]))?(?:;[^,]*)?\\s*$');

// A structured field (RFC 9213, 2.1; RFC 8941, 3.2) as {name: number or other text}, null if it is none.
function structured(text) {
    const said = {};
    const members = text.split(',');
    for (let i = 0; i < members.length; i++) {
        const found = MEMBER.exec(members[i]);
        if (!found) {
            return null;
        }
        said[found[1]] = found[2] === undefined ? true : /^-?\d/.test(found[2]) ? Number(found[2]) : found[2];
    }
    return typeof (said['max-age'] || 0) === 'number' ? said : null;
}

// How long a cache that is shared may use an answer without asking, from now on, in seconds; undefined where nginx's
// own reading of the headers is right. `header(name)` is their value, "" if there is none; `now` in seconds.
function lifetime(header, now) {
    const ours = header('CDN-Cache-Control') && structured(header('CDN-Cache-Control'));
    const cacheControl = header('Cache-Control');
    const first = header('Age').split(',')[0].trim();
    const age = /^\d+$/.test(first) ? Number(first) : 0;
    let length;
    if (ours) {  // it alone counts, whatever others are told
        if (ours['no-store'] || ours['no-cache'] || ours['private']) {
            return 0;
        }
        length = ours['max-age'];
    }
    if (length === undefined) {
        if (/(^|[\s,])(no-store|no-cache|private)/i.test(cacheControl)) {
            return undefined;
        }
        const stated = /(?:^|[\s,])s-maxage="?(\d+)/i.exec(cacheControl)
            || /(?:^|[\s,])max-age="?(\d+)/i.exec(cacheControl);
        if (stated && age === 0) {
            return undefined;
        }
        if (stated) {
            length = Number(stated[1]);
        } else if (header('Expires') && !/max-?age/i.test(cacheControl)) {
            const expires = seconds(header('Expires')), date = seconds(header('Date'));
            length = expires - (date === date ? date : now);
        } else {
            return undefined;
        }
    }
    return length > age ? Math.min(length - age, 2147483648) : 0;  // NaN, too: what is no date is over
}

// Several lines of one field as one: nginx before 1.23 sees one of them only.
const LISTS = ['cache-control', 'cdn-cache-control', 'vary', 'age'];

// What an answer is made of, and whom it is for, whatever Connection names.
const NEVER_OF_ONE_HOP = [
    'cache-control', 'content-encoding', 'content-length', 'content-range', 'content-type', 'set-cookie', 'vary',
];

function pass(r) {
    const said = {}, repeated = {};
    r.rawHeadersOut.forEach((line) => {
        const name = line[0].toLowerCase();
        repeated[name] = said[name] !== undefined && LISTS.indexOf(name) >= 0;
        said[name] = repeated[name] ? said[name] + ', ' + line[1] : line[1];
    });
    LISTS.filter((name) => repeated[name]).forEach((name) => {
        r.headersOut[name] = said[name];
    });
    // Of one hop, because the origin says so (RFC 9110, 7.6.1).
    (r.variables.upstream_http_connection || '').split(',').map((name) => name.trim()).forEach((name) => {
        if (name && NEVER_OF_ONE_HOP.indexOf(name.toLowerCase()) < 0) {
            delete r.headersOut[name];
        }
    });
    // A part is not the whole (RFC 9111, 3.3), and nobody was asked for one.
    const length = r.status === 206 ? 0 : lifetime((name) => said[name.toLowerCase()] || '', Date.now() / 1000);
    if (length !== undefined) {
        r.headersOut['X-Accel-Expires'] = String(Math.floor(length));
    }
}

export default { pass, lifetime };
