"""The cache's Lua, for Redis 7.0. Each may be sent twice without harm. All keys of a call share one hash
slot.

The token of an owner is 16 random bytes: it stands in the lock while the value is computed, and in the
entry's header afterwards. So "is this entry newer than the one I saw" is a comparison of 16 bytes.
"""

from okome.connection import Script
from okome.envelope import TOKEN_AT, TOKEN_BYTES

_HEAD = f"redis.call('GETRANGE', KEYS[1], {TOKEN_AT}, {TOKEN_AT + TOKEN_BYTES - 1})"

# KEYS value, lock, tags...; ARGV token, lock ttl (ms), token of the entry seen before, force, tag ttl (ms),
# whether to tell the time, then a generation for every tag that has none.
# Returns {state, s, us, value or remaining lock ttl (ms), generations...}; state V (a new value), O (the lock
# is ours) or W (somebody else's). force takes the lock from whoever holds it, and looks at no value.
ENTER = Script(f"""
local time = ARGV[6] == '1' and redis.call('TIME') or {{0, 0}}
local answer = {{'W', time[1], time[2], 0}}
for i = 3, #KEYS do
  local generation = redis.call('GET', KEYS[i])
  if generation then
    redis.call('PEXPIRE', KEYS[i], ARGV[5])
  else
    generation = ARGV[4 + i]
    redis.call('SET', KEYS[i], generation, 'PX', ARGV[5])
  end
  answer[#answer + 1] = generation
end
if ARGV[4] == '0' then
  local head = {_HEAD}
  if head ~= '' and head ~= ARGV[3] then
    answer[1] = 'V'
    answer[4] = redis.call('GET', KEYS[1])
    return answer
  end
  local held = redis.call('SET', KEYS[2], ARGV[1], 'NX', 'GET', 'PX', ARGV[2])
  if held and held ~= ARGV[1] then
    local left, longest = redis.call('PTTL', KEYS[2]), tonumber(ARGV[2])
    if left > longest then  -- the clock was set back since: it may be dead, and would live on as long
      left = longest
      redis.call('PEXPIRE', KEYS[2], left)
    end
    answer[4] = left
    return answer
  end
else
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
end
answer[1] = 'O'
return answer
""")

# KEYS lock; ARGV token, ttl (ms). 1 if the lock is still ours, and lasts longer now.
BEAT = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
""")

# KEYS value, lock, tags...; ARGV token, ttl (ms), entry, channel, message, generations...
# 1 stored, 0 the lock is not ours any more, -1 a tag was invalidated since we entered. The tags outlive the entry,
# however long that lives.
COMMIT = Script(f"""
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  if {_HEAD} == ARGV[1] then return 1 end
  return 0
end
local stored = 1
for i = 3, #KEYS do
  if redis.call('GET', KEYS[i]) ~= ARGV[3 + i] then stored = -1 end
end
if stored == 1 then
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[2])
  for i = 3, #KEYS do redis.call('PEXPIRE', KEYS[i], 2 * ARGV[2], 'GT') end
end
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return stored
""")

# KEYS lock; ARGV token, channel, message. Gives up the lock, if it is ours, and lets the next one try.
RELEASE = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
""")

# KEYS values and locks; ARGV channel, messages... Whoever is computing loses the lock, and so can't store
# what is old now.
INVALIDATE = Script("""
local gone = redis.call('DEL', unpack(KEYS))
for i = 2, #ARGV do redis.call('PUBLISH', ARGV[1], ARGV[i]) end
return gone
""")

# KEYS tag; ARGV new generation, ttl (ms), channel, message.
INVALIDATE_TAG = Script("""
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
""")
