"""What is stored, for how long, and for whom."""

import time

from lab.client import FRONTEND
from lab.origin import DATE
from tests.nginx.checks.frame import SNIPPETS, Frontend, trap

FETCH = "/etc/nginx/conf.d/okome-fetch.conf"
FRESHNESS = "/etc/nginx/okome/freshness.js"


@trap(f"{SNIPPETS}/okome-static.conf", "proxy_cache_valid 200 1s;",
      "proxy_cache_valid 200 10m; proxy_ignore_headers Cache-Control Expires;")  # fmt: skip
@trap(f"{SNIPPETS}/okome-static.conf", "proxy_pass_header Date;\n", "")
def freshness_is_the_origins(box: Frontend) -> None:
    for kind in ("immutable", "public", "shared", "short", "swr"):
        first, second = (box.client.ask(f"/assets/{kind}/fresh") for _ in range(2))
        assert (first.cache, second.cache) == ("MISS", "HIT"), kind
        assert first.body == second.body
        assert first.header("Date") == second.header("Date") == DATE, "an age that nobody can tell"
    for kind in ("private", "no-cache", "no-store", "revalidate"):
        assert [box.client.ask(f"/assets/{kind}/fresh").cache for _ in range(2)] == ["MISS", "MISS"], kind


@trap(f"{SNIPPETS}/okome-static.conf", "proxy_cache_valid 200 1s;", "proxy_cache_valid 200 10m;")
def unstated_freshness_is_short_but_bridges_an_outage(box: Frontend) -> None:
    first = box.client.ask("/assets/unstated/a")
    time.sleep(2.1)
    second = box.client.ask("/assets/unstated/a")
    assert first.body != second.body, "ten minutes of somebody's guess"
    time.sleep(2.1)
    box.origin(mode="down")
    assert box.client.ask("/assets/unstated/a").cache == "STALE"


@trap(f"{SNIPPETS}/okome-static.conf", "proxy_cache_revalidate on;\n", "")
def revalidation_costs_no_body(box: Frontend) -> None:
    path = "/assets/short/etag?etag=v1"
    box.client.ask(path)
    time.sleep(2.1)
    answer = box.client.ask(path)
    assert (answer.status, answer.cache) == (200, "REVALIDATED")
    assert box.origin()["counts"]["304 /assets/short/etag"] == 1


@trap(
    f"{SNIPPETS}/okome-static.conf",
    "proxy_cache okome;",
    "proxy_cache okome; proxy_ignore_headers Set-Cookie;",
)
def set_cookie_is_never_shared(box: Frontend) -> None:
    path = "/assets/public/cookie?h=Set-Cookie:session=one"
    first, second = box.client.ask(path), box.client.ask(path)
    assert (first.cache, second.cache) == ("MISS", "MISS")
    assert first.body != second.body


@trap(f"{SNIPPETS}/okome-static.conf", "$okome_authorized", '""')
@trap(f"{SNIPPETS}/okome-static.conf", "$okome_authorized", "$http_authorization")
def authorization_is_never_shared(box: Frontend) -> None:
    zero = "/assets/public/zero?echo=Authorization"  # "0" means no to nginx
    assert b"Authorization=0" in box.client.ask(zero, Authorization="0").body
    assert b"Authorization=0" not in box.client.ask(zero).body
    path = "/assets/public/secret?echo=Authorization"
    mine = box.client.ask(path, Authorization="Bearer mine")
    assert b"Bearer mine" in mine.body
    other = box.client.ask(path)
    assert b"Bearer" not in other.body
    assert box.client.ask(path).cache == "HIT"
    again = box.client.ask(path, Authorization="Bearer mine")
    assert again.cache == "BYPASS"
    assert b"Bearer mine" in again.body
    assert b"Bearer" not in box.client.ask(path).body


@trap(
    f"{SNIPPETS}/okome-static.conf",
    "proxy_cache okome;",
    "proxy_cache okome; proxy_ignore_headers Vary;",
    "trixie",
)
def vary_is_honoured(box: Frontend) -> None:
    path = "/assets/public/vary?h=Vary:Accept-Language&echo=Accept-Language"
    for language in ("en", "de", "en", "de"):
        answer = box.client.ask(path, Accept_Language=language)
        assert answer.body.endswith(f"Accept-Language={language}".encode())
    assert answer.cache == "HIT"


@trap(FRESHNESS, "'vary', ", "")
def two_vary_lines_are_both_honoured(box: Frontend) -> None:
    varies = "h=Vary:Accept-Language&h=Vary:Accept-Encoding"
    path = f"/assets/public/two?{varies}&echo=Accept-Language&echo=Accept-Encoding"
    for language in ("en", "de"):
        for coding in ("gzip", "br"):
            for _ in range(2):
                answer = box.client.ask(path, Accept_Language=language, Accept_Encoding=coding)
                assert answer.body.endswith(f"Accept-Language={language} Accept-Encoding={coding}".encode())
            assert answer.cache == "HIT"


@trap("/etc/nginx/conf.d/okome-cache.conf", '    "~\\*" 1;', '    "never" 1; "~." 0;')
def unusual_vary_is_not_confused(box: Frontend) -> None:
    kinds = (
        "h=Vary:X-Tenant&h=Vary:Accept",
        "h=Vary:Accept,X-Tenant&h=Vary:Accept",
        "h=Vary:*",
        "h=Vary:Accept,*",
        "h=Vary:*&h=Vary:Accept",
    )
    for number, vary in enumerate(kinds):
        path = f"/assets/public/tenant{number}?{vary}&echo=X-Tenant"
        for tenant in ("one", "two"):
            for _ in range(2):
                answer = box.client.ask(path, X_Tenant=tenant)
                assert answer.body.endswith(f"X-Tenant={tenant}".encode()), (vary, tenant)


@trap(FETCH, "        js_header_filter okome_freshness.pass;\n", "")
def directives_for_shared_caches_are_obeyed(box: Frontend) -> None:
    """CDN-Cache-Control is for caches like this one, and what it says counts alone, if it is a structured field."""
    for number, (said, second) in enumerate((
        ("no-store", "MISS"), ("private", "MISS"), ("max-age=0", "MISS"), ("max-age=60", "HIT"), ("max-age=0,&", "HIT"),
    )):  # fmt: skip
        path = f"/assets/public/cdn-{number}?h=CDN-Cache-Control:{said.replace('&', '%26')}"
        assert [box.client.ask(path).cache for _ in range(2)] == ["MISS", second], said


@trap(FRESHNESS, "length > age ?", "length > 0 ?")
@trap(FRESHNESS, "expires - (date === date ? date : now)", "expires - now")
@trap(FRESHNESS, "header('Age').split(',')[0]", "header('Age')")
@trap(FRESHNESS, "midnight.getUTCDate() !== Number(day)", "false", "trixie")
def freshness_that_was_over_on_arrival_is_not_counted_anew(box: Frontend) -> None:
    """What is worth keeping is kept, however oddly its Age or its Expires is written."""
    later = "Fri, 01 Jan 2038 00:00:00"
    over = ["max-age=3600&h=Age:7200", "max-age=3600&h=Age:7200,0", "&h=Expires:0", f"&h=Expires:{later} UTC"]
    over += [f"&h=Date:{later} GMT&h=Expires:{later} GMT"]
    over += [f"&h=Expires:{odd} GMT" for odd in ("Fri, 30 Feb 2038 00:00:00", "Fri, 01 Jan 2038 24:00:00")]
    kept = ["max-age=3600&h=Age:0,7200", "max-age=3600&h=Age:old", "max-age=3600&h=Expires:0"]
    kept += [f"&h=Expires:{later} GMT", "&h=Expires:Friday, 01-Jan-38 00:00:00 GMT"]
    kept += ["&h=Expires:Fri Jan  1 00:00:00 2038"]
    for number, said in enumerate(over + kept):
        path = f"/assets/own/arrival-{number}?h=Cache-Control:{said.replace(' ', '%20')}"
        wanted = "HIT" if said in kept else "MISS"
        assert [box.client.ask(path).cache for _ in range(2)] == ["MISS", wanted], said


@trap(FRESHNESS, "r.status === 206 ? 0 :", "")
def a_part_is_not_kept_as_the_whole(box: Frontend) -> None:
    path = "/assets/public/part?status=206&h=Content-Range:bytes%200-9/90"
    assert [box.client.ask(path).cache for _ in range(2)] == ["MISS", "MISS"]


@trap(FRESHNESS, "'set-cookie', 'vary',", "")
def whom_an_answer_is_for_is_no_matter_of_one_hop(box: Frontend) -> None:
    for number, said in enumerate(("Vary:X-Tenant", "Set-Cookie:session=one")):
        path = f"/assets/public/hop-{number}?h=Connection:Vary,%20Set-Cookie&h={said}&echo=X-Tenant"
        for tenant in ("one", "two"):
            answer = box.client.ask(path, X_Tenant=tenant)
            assert (answer.cache, answer.body[-3:]) == ("MISS", tenant.encode()), said


@trap(f"{SNIPPETS}/okome-static.conf", " $http_if_match $http_if_unmodified_since;", ";")
@trap(f"{SNIPPETS}/okome-static.conf", "if_modified_since before;", "if_modified_since exact;")
def what_a_cache_may_judge_and_what_it_may_not(box: Frontend) -> None:
    """RFC 9110, 13.1: what somebody has is still good if the asset did not change since; whether it is still there
    is the origin's to say."""
    before, later = "Thu, 01 Jan 2026 00:00:00 GMT", "Fri, 02 Jan 2026 00:00:00 GMT"
    path = f"/assets/public/judged?etag=one&h=Last-Modified:{before.replace(' ', '%20')}"
    box.client.ask(path)
    for headers, status in (
        ({"If_Modified_Since": before}, 304), ({"If_Modified_Since": later}, 304), ({"If_None_Match": '"one"'}, 304),
        ({"If_None_Match": '"two"', "If_Modified_Since": later}, 200),
        ({"If_Modified_Since": "Wed, 31 Dec 2025 00:00:00 GMT"}, 200),
    ):  # fmt: skip
        answer = box.client.ask(path, **headers)
        assert (answer.status, answer.cache) == (status, "HIT"), headers
    assert box.origin()["counts"] == {"GET /assets/public/judged": 1}
    assert box.client.ask(path, If_Match='"one"').status == 200
    assert box.client.ask(path, If_Match='"two"').status == 412
    assert box.client.ask(path, If_Unmodified_Since=later).status == 200
    assert box.origin()["counts"] == {"GET /assets/public/judged": 4}


KEY = 'proxy_cache_key "$scheme://$okome_server $args'


@trap(f"{SNIPPETS}/okome-static.conf", KEY, 'proxy_cache_key "$scheme://$okome_server$uri$is_args$args"; # ')
def no_two_requests_have_one_key(box: Frontend) -> None:
    """A path is decoded in the key: what it then contains must not look like the rest of another's."""
    for one, another in (
        ("/assets/public/k%3fv=1", "/assets/public/k?v=1"),
        ("/assets/public/k?a%20/assets/public/k", "/assets/public/k%20/assets/public/k?a"),
    ):
        first = box.client.ask(one)
        second = box.client.ask(another)
        assert (first.cache, second.cache) == ("MISS", "MISS"), another
        assert [box.client.ask(path).cache for path in (one, another)] == ["HIT", "HIT"]
    headers = ["Accept", "Accept-Encoding", "Accept-Language", "Origin"]
    for name in headers:  # what one header says is not what its neighbour says
        answers = [
            box.client.ask(
                "/assets/public/fields?h=Vary:" + ",".join(headers) + f"&echo={name}",
                **{name.replace("-", "_"): value},
            )
            for value in ("x", "y")
        ]
        assert answers[0].body != answers[1].body


@trap(f"{SNIPPETS}/okome-static.conf", 'rewrite "(?s)^(.*)$" $1 break;', "")
def key_and_request_are_normalised(box: Frontend) -> None:
    first = box.client.ask("/assets/public/key%20x.css")
    for spelling in (
        "/assets//public/./key%20x.css",
        "/assets/public/%6bey%20x.css",
        "/assets/a/../public/key%20x.css?",
    ):
        for host in (FRONTEND, "cn00", "CN00"):
            answer = box.client.ask(spelling, Host=host)
            assert (answer.cache, answer.body) == ("HIT", first.body), (spelling, host)
    assert box.client.ask("/assets/public/key%20x.css", "HEAD").cache == "HIT"
    assert box.origin()["counts"] == {"GET /assets/public/key%20x.css": 1}
    box.client.ask("/x/..%2fassets/public/deep%3fx%23y%25z")
    assert "GET /assets/public/deep%3Fx%23y%25z" in box.origin()["counts"]
    # A line feed in the path: still the resolved path, not the client's spelling, and another entry.
    box.client.ask("/api/me/..%2f..%2fassets/public/feed%0a.css")
    assert "GET /assets/public/feed%0A.css" in box.origin()["counts"]
    assert not [line for line in box.origin()["counts"] if "/api/me" in line]
    box.client.ask("/assets/public/split%20HTTP/1.1%0d%0aEvil:1")
    assert all("\n" not in line and "split HTTP" not in line for line in box.origin()["counts"])


@trap("/etc/nginx/conf.d/okome-server.conf", "location ^~ /assets/ {", "location ~ \\.css$ {")
def static_is_a_prefix_not_an_extension(box: Frontend) -> None:
    deceptions = (
        "/api/me/x.css",
        "/assets/..%2fapi/me.css",
        "/assets/../api/me.css",
        "/api/me;x.css",
        "/api/assets/x.css",
    )
    for path in deceptions:
        answers = [
            box.client.ask(f"{path}?h=Cache-Control:public,max-age=60&echo=Cookie", Cookie=who)
            for who in ("a", "b")
        ]
        assert [answer.cache for answer in answers] == ["BYPASS", "BYPASS"], path
        assert answers[1].body.endswith(b"Cookie=b")
    assert box.client.ask("/assets/public/app.css").cache == "MISS"


@trap(
    f"{SNIPPETS}/okome-static.conf",
    'proxy_pass_request_body off;\nproxy_set_header Content-Length "";\n',
    "",
)
def a_body_has_no_say_in_an_asset(box: Frontend) -> None:
    """It is not in the key, so the origin does not get it."""
    answer = box.client.ask("/assets/public/fat?echo=Content-Length", body="poison")
    assert answer.status == 200
    assert b"Content-Length=6" not in answer.body


@trap(
    f"{SNIPPETS}/okome-origin.conf",
    "proxy_ignore_headers X-Accel-Redirect X-Accel-Buffering",
    "proxy_ignore_headers X-Accel-Buffering",
)
def the_origin_has_no_say_in_how_the_node_works(box: Frontend) -> None:
    for path in ("/assets/public/accel", "/v1/accel"):
        answer = box.client.ask(f"{path}?h=X-Accel-Redirect:/okome/maintenance")
        assert answer.status == 200, path


@trap(f"{SNIPPETS}/okome-static.conf", "$okome_cache_full", '""')
def a_full_disk_is_not_written_to(box: Frontend) -> None:
    assert [box.client.ask("/assets/public/kept").cache for _ in range(2)] == ["MISS", "HIT"]
    box.set_full(full=True)
    answers = [box.client.ask("/assets/public/large?size=3000000") for _ in range(2)]
    assert [(answer.cache, len(answer.body)) for answer in answers] == [("MISS", 3_000_000)] * 2
    assert box.client.ask("/assets/public/kept").cache == "HIT"
    box.set_full(full=False)
    assert [box.client.ask("/assets/public/large?size=3000000").cache for _ in range(2)] == ["MISS", "HIT"]
