"""The budgets' Lua, for Redis 7.0: one call, one decision, all or nothing. Time is Redis's.

A rate is one MessagePack array, times in seconds: when it was written; how far the theoretical arrival time of GCRA,
which smooths bursts and works off debt, was ahead of that; then, for each slot in which something was admitted, when
it was last and how much. Slots are a fixed part of the window. What was admitted counts as a whole until its slot's
last has left the window: never too little, for at most a slot too long, and so in no window more than the limit. A
cap is a hash, so that it is lost as a whole or not at all: s spent (its presence is the seed mark), r reserved, d
debt, n when a lease of it expires next (ms), L:lease "state amount expiry" with state N (reserved), S (started) or B
(by the book: the ledger has its start, but not whether it fitted), T:lease "end charged expiry", the tombstone of a
lease that expired (end E) or was settled (end S). An expired lease may still start or be settled, which changes s by
the difference to the tombstone alone; of a settled one nothing changes any more.

The clock may have been set back: a Pi has none that outlives a power cut. An instant that is later than it can be was
written before that, and is brought back to the latest that is possible now; a rate as if it had been written now.

KEYS: the lease's marker (R and when it was reserved, and W once it works; S settled), the epoch, then one per rule.
ARGV: one MessagePack array of lease (a digest of its id and of all it is charged to), its ttl (ms), retention of
tombstones (ms), whether there is a ledger (else the epoch is the seed mark), the rules, the lives of a lease that has
not and of one that has started (ms), and the slots of a rate's window.
"""

from okome.connection import Script

_CAP = """
local redis_call, floor, ceil, max, min = redis.call, math.floor, math.ceil, math.max, math.min
local call = cmsgpack.unpack(ARGV[1])
local lease, ttl, retention, ledger, rules = call[1], call[2], call[3], call[4], call[5]
local waits, works, slots = call[6], call[7], call[8]
local time = redis_call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local now_ms = floor(now * 1000)
local held_as, ended_as = 'L:' .. lease, 'T:' .. lease
-- A sweep puts off the next one by a little, which is not to be taken for a clock that was set back.
local late = now_ms + 60000
local impossible = late + max(waits, works)

-- Refund expired leases that never started, charge those that did, forget old tombstones, and let none live on.
local function sweep(key)
  local all = redis_call('HGETALL', key)
  local spent, reserved, nearest, gone, set = 0, 0, nil, {}, {}
  for i = 1, #all, 2 do
    local name, value = all[i], all[i + 1]
    if name == 's' then spent = tonumber(value) elseif name == 'r' then reserved = tonumber(value) end
  end
  for i = 1, #all, 2 do
    local name, value = all[i], all[i + 1]
    local kind = string.sub(name, 1, 2)
    if kind == 'L:' then
      local state, amount, expiry = string.match(value, '(%a) (%d+) (%d+)')
      amount, expiry = tonumber(amount), tonumber(expiry)
      local life = state == 'N' and waits or works
      if expiry > late + life then
        expiry = now_ms + life
        set[#set + 1] = name
        set[#set + 1] = string.format('%s %.0f %.0f', state, amount, expiry)
      end
      if expiry <= now_ms then
        local charged = state == 'N' and 0 or amount
        reserved, spent = reserved - amount, spent + charged
        gone[#gone + 1] = name
        set[#set + 1] = 'T:' .. string.sub(name, 3)
        set[#set + 1] = string.format('E %d %d', charged, now_ms + retention)
      elseif not nearest or expiry < nearest then
        nearest = expiry
      end
    elseif kind == 'T:' and tonumber(string.match(value, '%a %d+ (%d+)')) <= now_ms then
      gone[#gone + 1] = name
    end
  end
  for i = 1, #gone, 100 do redis_call('HDEL', key, unpack(gone, i, min(i + 99, #gone))) end
  for i = 1, #set, 100 do redis_call('HSET', key, unpack(set, i, min(i + 99, #set))) end
  -- The next sweep not before it has paid off: leases that expire one by one must not cost a sweep each.
  if nearest then nearest = max(nearest, now_ms + ceil(#all / 20)) end
  redis_call('HSET', key, 's', spent, 'r', reserved, 'n', nearest or 0)
  return spent, reserved, nearest or 0
end

-- spent, reserved, next expiry, whether it is new, whether it knows the lease and how that ended (E, S); nil
-- where it is lost.
local function cap(key, known_zero)
  local f = redis_call('HMGET', key, 's', 'r', 'n', held_as, ended_as)
  if not f[1] then
    if known_zero then return 0, 0, 0, true end
    return nil
  end
  local nearest = tonumber(f[3] or 0)
  local held, ended = f[4] or f[5], f[5] and string.sub(f[5], 1, 1)
  if nearest > 0 and (nearest <= now_ms or nearest > impossible) then
    local spent, reserved, later = sweep(key)
    return spent, reserved, later, false, held, ended
  end
  return tonumber(f[1]), tonumber(f[2]), nearest, false, held, ended
end

local function sooner(a, b)
  if a == 0 or b < a then return b end
  return a
end

local function whole(x) return string.format('%.0f', x) end

-- Its state as of now, and how much of it is in the window. One of the future is brought back and written: it has to
-- go by from now on, and would stand still if it were brought back anew each time, as who is denied writes nothing.
local function rate(key, per)
  local stored = redis_call('GET', key)
  if not stored then return {now, 0}, 0 end
  local was = cmsgpack.unpack(stored)
  local ahead = max(0, was[1] - now)
  local left, used, n = now - per + ahead, 0, #was
  was[2] = max(0, was[2] - max(0, now - was[1]))
  was[1] = now
  if ahead == 0 and (n == 2 or was[3] > left) then  -- all of it counts, as it stands
    for i = 4, n, 2 do used = used + was[i] end
    return was, used
  end
  local state = {was[1], was[2]}
  for i = 3, n, 2 do
    local at, amount = was[i], was[i + 1]
    if at > left then
      state[#state + 1], state[#state + 2] = at - ahead, amount
      used = used + amount
    end
  end
  if ahead > 0 then
    redis_call('SET', key, cmsgpack.pack(state), 'PX', whole(ceil(max(state[2], per) * 1000) + 1))
  end
  return state, used
end

local function admit(state, amount, per)
  local n, slot = #state, per / slots
  if n > 2 and floor(state[n - 1] / slot) == floor(now / slot) then
    state[n - 1], state[n] = now, state[n] + amount
  else
    state[n + 1], state[n + 2] = now, amount
  end
end

-- Seconds until so much has left the window.
local function passes(state, amount, per)
  local last = now
  for i = 3, #state, 2 do
    if amount <= 0 then break end
    last, amount = state[i] + per, amount - state[i + 1]
  end
  return last - now
end
"""

# Rules, six each in one list, which is read faster than lists in a list: R, amount, limit, burst, window (s), the same
# in ms (text); or C, amount, limit, begin and end of the period (s), and nothing.
# Returns {outcome, s, us, rule, retry (ms, -1 never), left (less than 0: debt), reset (ms), left, reset...};
# outcome OK, DENIED, LOST, SETTLED where the lease has ended, or PERIOD where the caller's idea of the calendar is
# wrong.
RESERVE = Script(
    _CAP
    + """
local marker = redis_call('GET', KEYS[1])
local again = marker
local known_zero = not ledger and redis_call('GET', KEYS[2])
local state, counts = {}, {}
-- The caps first: the marker may have been evicted, and they tell as well whether this lease was here before.
for i = 3, #KEYS do
  local at = (i - 3) * 6
  if rules[at + 1] == 'C' then
    if now < rules[at + 4] or now >= rules[at + 5] then return {'PERIOD', time[1], time[2], i - 2, 0} end
    local spent, reserved, nearest, fresh, held, ended = cap(KEYS[i], known_zero)
    if not spent then return {'LOST', time[1], time[2], i - 2, 0} end
    if ended == 'S' then again = 'S' elseif held and not again then again = 'R' end
    state[i] = {spent, reserved, nearest, fresh}
  end
end
local answer = {again == 'S' and 'SETTLED' or 'OK', time[1], time[2], 0, 0}
for i = 3, #KEYS do
  local at = (i - 3) * 6
  local amount = again and 0 or rules[at + 2]
  if rules[at + 1] == 'R' then
    local limit, burst, per = rules[at + 3], rules[at + 4], rules[at + 5]
    local s, used = rate(KEYS[i], per)
    state[i], counts[i] = s, used
    if amount > 0 and not again then
      local interval, excess = per / max(1, limit), used + amount - limit
      -- A microsecond of grace: a float can't hold every sum of intervals.
      local over = s[2] + (amount - burst) * interval - 1e-6
      if excess > 0 or over > 0 then
        local retry = amount > burst and -1 or ceil(max(over, passes(s, excess, per)) * 1000)
        if answer[1] == 'OK' or retry < 0 or (answer[5] >= 0 and retry > answer[5]) then
          answer[1], answer[4], answer[5] = 'DENIED', i - 2, retry
        end
      end
    end
  else
    local limit, ends, s = rules[at + 3], rules[at + 5], state[i]
    if amount > 0 and s[1] + s[2] + amount > limit and not again then
      local retry = amount > limit and -1 or ceil((ends - now) * 1000)
      if answer[1] == 'OK' or retry < 0 or (answer[5] >= 0 and retry > answer[5]) then
        answer[1], answer[4], answer[5] = 'DENIED', i - 2, retry
      end
    end
  end
end
local granted = answer[1] == 'OK' and not again
local n, holding, hold = 5, nil, nil
for i = 3, #KEYS do
  local at, s = (i - 3) * 6, state[i]
  local amount = rules[at + 2]
  if rules[at + 1] == 'R' then
    local limit, burst, per = rules[at + 3], rules[at + 4], rules[at + 5]
    local interval, used = per / max(1, limit), counts[i]
    if granted and amount > 0 then
      s[2], used = s[2] + amount * interval, used + amount
      admit(s, amount, per)
      -- Its life is text from the caller, long enough for any state: to write a number out costs half of a SET.
      redis_call('SET', KEYS[i], cmsgpack.pack(s), 'PX', rules[at + 6])
    end
    answer[n + 1] = min(limit - used, floor(burst - s[2] / interval + 1e-6))
    answer[n + 2] = ceil(max(s[2], passes(s, used + burst - limit, per)) * 1000)
  else
    local limit, ends = rules[at + 3], rules[at + 5]
    local reserved = s[2]
    if granted then
      reserved = reserved + amount
      local expiry = now_ms + ttl
      if amount ~= holding then holding, hold = amount, string.format('N %.0f %.0f', amount, expiry) end
      if sooner(s[3], expiry) == s[3] then
        redis_call('HSET', KEYS[i], 'r', whole(reserved), held_as, hold)
      else
        redis_call('HSET', KEYS[i], 's', whole(s[1]), 'r', whole(reserved), 'n', whole(expiry), held_as, hold)
      end
      if s[4] then redis_call('PEXPIRE', KEYS[i], ceil((ends - now) * 1000) + 86400000) end
    end
    answer[n + 1] = limit - s[1] - reserved
    answer[n + 2] = ceil((ends - now) * 1000)
  end
  n = n + 2
end
if answer[1] == 'OK' and not marker then
  -- Of one that the caps alone remember nobody knows when that was.
  local reserved = again and 'R0 0' or 'R' .. time[1] .. ' ' .. time[2]
  redis_call('SET', KEYS[1], reserved, 'PX', whole(ttl + retention))
end
return answer
"""
)

# KEYS caps only from the third. ARGV lease, ttl of a started lease (ms), retention (ms), ledger or epoch;
# then per cap three: amount, limit, end of the period (s). What is not reserved any more (expired, lost and reseeded)
# is reserved anew, if it fits. Returns {OK, DENIED, LOST or SETTLED, s, us, rule, 0}.
START = Script(
    _CAP
    + """
local marker = redis_call('GET', KEYS[1])
if marker == 'S' then return {'SETTLED', time[1], time[2], 0, 0} end
local known_zero = not ledger and redis_call('GET', KEYS[2])
local state = {}
for i = 3, #KEYS do
  local spent, reserved, nearest, fresh = cap(KEYS[i], known_zero)
  if not spent then return {'LOST', time[1], time[2], i - 2, 0} end
  local f = redis_call('HMGET', KEYS[i], held_as, ended_as)
  local amount = rules[i - 2][1]
  local fitted, held = f[1] and string.sub(f[1], 1, 1) ~= 'B', f[1] and tonumber(string.match(f[1], '%d+')) or 0
  if f[2] and string.sub(f[2], 1, 1) == 'S' then return {'SETTLED', time[1], time[2], i - 2, 0} end
  if not f[1] and f[2] then spent = spent - tonumber(string.match(f[2], '%d+')) end
  if amount > 0 and (not fitted or amount > held) and spent + reserved - held + amount > rules[i - 2][2] then
    return {'DENIED', time[1], time[2], i - 2, 0}
  end
  state[i] = {spent, reserved + amount - held, nearest, f[2], fresh}
end
local expiry = now_ms + ttl
for i = 3, #KEYS do
  local s = state[i]
  if s[4] then redis_call('HDEL', KEYS[i], ended_as) end
  redis_call('HSET', KEYS[i], 's', whole(s[1]), 'r', whole(s[2]), 'n', whole(sooner(s[3], expiry)),
    held_as, string.format('S %.0f %.0f', rules[i - 2][1], expiry))
  if s[5] then redis_call('PEXPIRE', KEYS[i], max(0, ceil((rules[i - 2][3] - now) * 1000)) + 86400000) end
end
if marker then
  if string.sub(marker, -1) ~= 'W' then marker = marker .. ' W' end
  redis_call('SET', KEYS[1], marker, 'PX', whole(ttl + retention))
end
return {'OK', time[1], time[2], 0, 0}
"""
)

# Rules: R, reserved, actual, limit, window (s); or C, reserved, actual, end of the period (s). A rate gets back what it
# gets where that was taken; what it did cost beyond that is admitted now, whether or not it fits.
# Returns {OK or LOST, s, us, rule, 0}.
SETTLE = Script(
    _CAP
    + """
local known_zero = not ledger and redis_call('GET', KEYS[2])
local state = {}
for i = 3, #KEYS do
  if rules[i - 2][1] == 'C' then
    local spent, reserved, nearest, fresh = cap(KEYS[i], known_zero)
    if not spent then return {'LOST', time[1], time[2], i - 2, 0} end
    state[i] = {spent, reserved, nearest, fresh}
  end
end
local seconds, microseconds = string.match(redis_call('GET', KEYS[1]) or '', 'R(%d+) (%d+)')
local reserved_at = seconds and tonumber(seconds) + tonumber(microseconds) / 1e6
for i = 3, #KEYS do
  local estimate, actual = rules[i - 2][2], rules[i - 2][3]
  if state[i] then
    local last = rules[i - 2][4]
    local spent, reserved = state[i][1], state[i][2]
    local f = redis_call('HMGET', KEYS[i], held_as, ended_as, 'd')
    local debt, charged, covered = tonumber(f[3] or 0), 0, 0
    if f[1] then
      covered = tonumber(string.match(f[1], '%a (%d+)'))
      reserved = reserved - covered
      redis_call('HDEL', KEYS[i], held_as)
    elseif f[2] then
      charged = tonumber(string.match(f[2], '%d+'))
      covered = charged
      -- The first settlement stands, as in the ledger.
      if string.sub(f[2], 1, 1) == 'S' then actual = charged end
    end
    redis_call('HSET', KEYS[i], 's', whole(spent + actual - charged), 'r', whole(reserved),
      'd', whole(debt + max(0, actual - covered)),
      ended_as, string.format('S %.0f %.0f', actual, now_ms + retention))
    if state[i][4] then
      redis_call('PEXPIRE', KEYS[i], max(0, ceil((last - now) * 1000)) + 86400000)
    end
  elseif reserved_at and actual ~= estimate then
    local limit, per = rules[i - 2][4], rules[i - 2][5]
    local s = rate(KEYS[i], per)
    s[2] = max(0, s[2] + (actual - estimate) * per / max(1, limit))
    if actual > estimate then
      admit(s, actual - estimate, per)
    else
      local slot = per / slots
      for n = 3, #s, 2 do
        if floor(s[n] / slot) == floor(reserved_at / slot) then
          s[n + 1] = max(0, s[n + 1] - (estimate - actual))
          break
        end
      end
    end
    redis_call('SET', KEYS[i], cmsgpack.pack(s), 'PX', whole(ceil(max(s[2], per) * 1000) + 1))
  end
end
redis_call('SET', KEYS[1], 'S', 'PX', retention)
return {'OK', time[1], time[2], 0, 0}
"""
)

# KEYS a lost cap, its seed token; ARGV a new token, its life (ms). Returns the token that stands, which whoever
# rebuilds the cap at the same time shares; nil if the cap is there again.
OPEN_SEED = Script("""
if redis.call('HGET', KEYS[1], 's') then return false end
local token = redis.call('GET', KEYS[2])
if token then return token end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
""")

# KEYS as above; ARGV token, spent, end of the period (s), then names and values of fields. The token that was
# got before the ledger was read is gone once the cap has been seeded or dropped since: what was read may be old.
# Returns whether it was seeded.
SEED = Script("""
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
local time = redis.call('TIME')
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[1], 's', ARGV[2])
for i = 4, #ARGV, 100 do redis.call('HSET', KEYS[1], unpack(ARGV, i, math.min(i + 99, #ARGV))) end
redis.call('PEXPIRE', KEYS[1], math.max(0, (tonumber(ARGV[3]) - tonumber(time[1])) * 1000) + 86400000)
return 1
""")
