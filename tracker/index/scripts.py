"""What the shared index does in Redis, each in one step: Lua that nobody sees half done. Used by redis.py alone.

Keys, all behind one prefix that holds the swarm's id:

    heard           sorted set   node -> when it was last heard of; the living are those
    node:<node>     hash         profile role arrived arrivals heard linked silent epoch sequence room flags
    held:<node>     hash         tag (36 bytes) -> what it holds of it, packed as below
    holders         sorted set   tag ‖ node, all of score 0: read in their order, tag by tag
    newest          sorted set   tag -> minus its newest date, so that the newest come first, then by tag
    names           sorted set   digest of a name ‖ tag ‖ node, all of score 0
    jobtags         sorted set   tag ‖ storage node, of open jobs
    job             hash         tag ‖ storage node -> opened, updated, arrival, update; a line each
    ended           list         the jobs that ended last, newest first

A packed holding: date (16 digits), how many names (1 digit), the digests of the names (20 bytes each), the length of
the bitmap (4 digits, "0000" for a file held whole), the bitmap, and what only redis.py reads.

Every script first forgets who has been silent for too long, so that answers never depend on who swept when. All keys
die by themselves when no tracker is left to do so; those of a node outlive the others, so that whatever names a node's
holdings can be found and removed with it.
"""

from __future__ import annotations

from runtime.redis import Script

_BEGIN = r"""
local P, now, forgotten, ttl = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local call, sub = redis.call, string.sub
local HEARD, HOLDERS, NEWEST, NAMES = P..'heard', P..'holders', P..'newest', P..'names'
local JOBTAGS, JOB, ENDED = P..'jobtags', P..'job', P..'ended'

local function node_key(node) return P..'node:'..node end
local function held_key(node) return P..'held:'..node end
local function date_of(value) return tonumber(sub(value, 1, 16)) end
local function members(key, prefix) return call('ZRANGEBYLEX', key, '['..prefix, '('..prefix..'\255') end

local function each_name(value, act)
  for number = 0, tonumber(sub(value, 17, 17)) - 1 do act(sub(value, 18 + 20 * number, 37 + 20 * number)) end
end

local function bitmap_of(value)
  local begin = 18 + 20 * tonumber(sub(value, 17, 17))
  local length = tonumber(sub(value, begin, begin + 3))
  if length == 0 then return nil end
  return sub(value, begin + 4, begin + 3 + length)
end

local function date_again(tag)
  local best = nil
  for _, member in ipairs(members(HOLDERS, tag)) do
    local value = call('HGET', held_key(sub(member, 37)), tag)
    if value then best = math.max(best or 0, date_of(value)) end
  end
  if best then call('ZADD', NEWEST, string.format('%.0f', -best), tag) else call('ZREM', NEWEST, tag) end
end

local function drop(node, tag)
  local value = call('HGET', held_key(node), tag)
  if not value then return end
  call('HDEL', held_key(node), tag)
  call('ZREM', HOLDERS, tag..node)
  each_name(value, function(name) call('ZREM', NAMES, name..tag..node) end)
  date_again(tag)
end

local function end_job(key)
  call('ZREM', JOBTAGS, key)
  call('HDEL', JOB, key)
end

local function parts_of(job)
  return string.match(job, '^([^\n]*)\n([^\n]*)\n([^\n]*)\n(.*)$')
end

-- A job is believed that was told since its node arrived, or when the node may yet tell it.
local function counts(job, storage, silent)
  local entry = call('HMGET', node_key(storage), 'arrivals', 'arrived')
  if not entry[1] then return false end
  local _, _, arrival = parts_of(job)
  return arrival == entry[1] or now - tonumber(entry[2]) <= silent
end

local function drop_unconfirmed(storage, silent)
  for _, key in ipairs(call('ZRANGE', JOBTAGS, 0, -1)) do
    local of = sub(key, 37)
    if not storage or of == storage then
      local job = call('HGET', JOB, key)
      if not job or not counts(job, of, silent) then end_job(key) end
    end
  end
end

local function remove(node)
  for _, tag in ipairs(call('HKEYS', held_key(node))) do drop(node, tag) end
  for _, key in ipairs(call('ZRANGE', JOBTAGS, 0, -1)) do
    if sub(key, 37) == node then end_job(key) end
  end
  call('DEL', node_key(node), held_key(node))
  call('ZREM', HEARD, node)
end

local function forget_the_silent()
  local gone = call('ZRANGEBYSCORE', HEARD, '-inf', string.format('(%.17g', now - forgotten))
  for _, node in ipairs(gone) do remove(node) end
  return gone
end

local function living(node) return call('EXISTS', node_key(node)) == 1 end

local function hear(node)
  call('HSET', node_key(node), 'heard', ARGV[1])
  call('ZADD', HEARD, ARGV[1], node)
end

local function keep_alive(node)
  call('EXPIRE', node_key(node), ttl * 2)
  call('EXPIRE', held_key(node), ttl * 2)
  for _, key in ipairs({HEARD, HOLDERS, NEWEST, NAMES, JOBTAGS, JOB, ENDED}) do call('EXPIRE', key, ttl) end
end

local function view(node)
  local fields = call('HMGET', node_key(node), 'profile', 'heard', 'linked', 'silent', 'room', 'flags')
  fields[7] = call('HLEN', held_key(node))
  fields[8] = node
  return fields
end

local function holder(tag, node)
  local value = call('HGET', held_key(node), tag)
  if not value or not living(node) then return nil end
  return {view(node), value}
end

local function holders_of(tag)
  local found = {}
  for _, member in ipairs(members(HOLDERS, tag)) do
    found[#found + 1] = holder(tag, sub(member, 37))
  end
  return found
end

local function jobs_of(keys, silent)
  local found = {}
  for _, key in ipairs(keys) do
    local job = call('HGET', JOB, key)
    if job and counts(job, sub(key, 37), silent) then found[#found + 1] = {key, job} end
  end
  return found
end

local gone = forget_the_silent()
"""


def _script(body: str) -> Script:
    return Script(_BEGIN + body)


# Common arguments: now, forgotten_seconds, seconds to keep keys. What follows stands above each.

# node, profile, role, linked to, silent_seconds, then for a beat: room, flags, epoch, sequence
ARRIVED = _script(r"""
local node = ARGV[4]
local key = node_key(node)
drop_unconfirmed(node, tonumber(ARGV[8]))
call('HSET', key, 'profile', ARGV[5], 'role', ARGV[6], 'linked', ARGV[7], 'silent', ARGV[8], 'arrived', ARGV[1])
call('HINCRBY', key, 'arrivals', 1)
hear(node)
keep_alive(node)
""")
BEAT = _script(r"""
local node = ARGV[4]
local key = node_key(node)
if not living(node) then call('HSET', key, 'arrived', ARGV[1], 'arrivals', 0) end
call('HSET', key, 'profile', ARGV[5], 'role', ARGV[6], 'linked', ARGV[7],
  'silent', ARGV[8], 'room', ARGV[9], 'flags', ARGV[10])
hear(node)
keep_alive(node)
local picture = call('HMGET', key, 'epoch', 'sequence')
return (picture[1] == ARGV[11] and picture[2] == ARGV[12]) and 0 or 1
""")

# node, linked to
LEFT = _script(r"""
local key = node_key(ARGV[4])
if call('HGET', key, 'linked') == ARGV[5] then call('HSET', key, 'linked', '') end
""")

# node, full, epoch, sequence, most for a peer, most for a storage node, how many dropped, those, tag and holding each
TAKE = _script(r"""
local node = ARGV[4]
local key, held = node_key(node), held_key(node)
if not living(node) then return false end
hear(node)
local picture = call('HMGET', key, 'epoch', 'sequence', 'role')
if ARGV[5] == '0' and (picture[1] ~= ARGV[6] or picture[2] ~= string.format('%.0f', tonumber(ARGV[7]) - 1)) then
  call('HDEL', key, 'epoch', 'sequence')
  return false
end
local most = picture[3] == 'storage' and tonumber(ARGV[9]) or tonumber(ARGV[8])
local news, first = {}, 11 + tonumber(ARGV[10])
for number = first, #ARGV, 2 do news[ARGV[number]] = true end
local before = {}
if ARGV[5] == '1' then
  local all = call('HGETALL', held)
  for number = 1, #all, 2 do
    -- What is told again is replaced below; to drop it first would cost the same once more.
    if not news[all[number]] then drop(node, all[number]) end
  end
end
for number = 11, first - 1 do
  local tag = ARGV[number]
  if news[tag] then before[tag] = call('HGET', held, tag) or nil end
  drop(node, tag)
end

local function has_more(bitmap, old)
  if not old then return not bitmap or string.find(bitmap, '[^%z]') ~= nil end
  local known = bitmap_of(old)
  if not known then return false end
  if not bitmap then return true end
  for position = 1, #bitmap do
    if bit.band(string.byte(bitmap, position), bit.bnot(string.byte(known, position))) ~= 0 then return true end
  end
  return false
end

local gained = {}
local count = call('HLEN', held)
for number = first, #ARGV, 2 do
  local tag, value = ARGV[number], ARGV[number + 1]
  local old = call('HGET', held, tag)
  if old or count < most then
    if old then
      each_name(old, function(name) call('ZREM', NAMES, name..tag..node) end)
    else
      count = count + 1
      call('ZADD', HOLDERS, 0, tag..node)
    end
    call('HSET', held, tag, value)
    each_name(value, function(name) call('ZADD', NAMES, 0, name..tag..node) end)
    if old and date_of(old) > date_of(value) then
      date_again(tag)
    else
      call('ZADD', NEWEST, 'LT', string.format('%.0f', -date_of(value)), tag)
    end
    if ARGV[5] == '1' then old = old or before[tag] end
    if has_more(bitmap_of(value), old) then gained[#gained + 1] = tag end
  end
end
call('HSET', key, 'epoch', ARGV[6], 'sequence', ARGV[7])
keep_alive(node)
return gained
""")

# storage node, tag, silent_seconds, whether it is open, update, how many ended ones are kept
JOB = _script(r"""
local storage, tag, silent = ARGV[4], ARGV[5], tonumber(ARGV[6])
if not living(storage) then return 0 end
hear(storage)
local key = tag..storage
local known = call('HGET', JOB, key)
if known and not counts(known, storage, silent) then known = false end
local arrival = call('HGET', node_key(storage), 'arrivals')
local opened, _, told = ARGV[1], nil, nil
if known then opened, _, told = parts_of(known) end
local job = opened..'\n'..ARGV[1]..'\n'..arrival..'\n'..ARGV[8]
if ARGV[7] == '0' then
  end_job(key)
  call('LPUSH', ENDED, key..job)
  call('LTRIM', ENDED, 0, ARGV[9] - 1)
  keep_alive(storage)
  return 0
end
call('HSET', JOB, key, job)
call('ZADD', JOBTAGS, 0, key)
keep_alive(storage)
return (known and told == arrival) and 0 or 1
""")

# node
FORGET = _script("remove(ARGV[4])")

# silent_seconds
SWEEP = _script(r"""
-- A clock that was set back must not keep anybody alive.
for _, node in ipairs(call('ZRANGEBYSCORE', HEARD, string.format('(%.17g', now), '+inf')) do hear(node) end
drop_unconfirmed(nil, tonumber(ARGV[4]))
return gone
""")

# node
NODE = _script("if living(ARGV[4]) then return view(ARGV[4]) end return false")
NODES = _script(r"""
local found = {}
for _, node in ipairs(call('ZRANGE', HEARD, 0, -1)) do
  if living(node) then found[#found + 1] = view(node) end
end
return found
""")

# tag
HOLDERS = _script("return holders_of(ARGV[4])")

# tag, node
HOLDER = _script("return holder(ARGV[4], ARGV[5]) or false")

# node, how many
HELD_BY = _script(r"""
if not living(ARGV[4]) then return false end
local all, found, newest = call('HGETALL', held_key(ARGV[4])), {}, {}
for number = 1, #all, 2 do found[#found + 1] = {all[number], all[number + 1], date_of(all[number + 1])} end
table.sort(found, function(one, other)
  if one[3] ~= other[3] then return one[3] > other[3] end
  return one[1] < other[1]
end)
for number = 1, math.min(#found, tonumber(ARGV[5])) do newest[number] = {found[number][1], found[number][2]} end
return {view(ARGV[4]), newest}
""")

# digest of the name
NAMED = _script(r"""
local found = {}
for _, member in ipairs(members(NAMES, ARGV[4])) do
  local tag = sub(member, 21, 56)
  local one = holder(tag, sub(member, 57))
  if one then found[#found + 1] = {tag, one} end
end
return found
""")

# silent_seconds, tag
TAG = _script(r"""
return {ARGV[5], holders_of(ARGV[5]), jobs_of(members(JOBTAGS, ARGV[5]), tonumber(ARGV[4]))}
""")

# silent_seconds, how many at most, the tag before the first or nothing
PAGE = _script(r"""
local found, after = {}, ARGV[6]
while #found < tonumber(ARGV[5]) do
  local begin = after == '' and '-' or '('..after..'\255'
  local member = call('ZRANGEBYLEX', HOLDERS, begin, '+', 'LIMIT', 0, 1)[1]
  if not member then break end
  after = sub(member, 1, 36)
  found[#found + 1] = {after, holders_of(after), jobs_of(members(JOBTAGS, after), tonumber(ARGV[4]))}
end
return found
""")

# silent_seconds, how many
NEWEST = _script(r"""
local found = {}
for _, tag in ipairs(call('ZRANGE', NEWEST, 0, tonumber(ARGV[5]) - 1)) do
  found[#found + 1] = {tag, holders_of(tag), jobs_of(members(JOBTAGS, tag), tonumber(ARGV[4]))}
end
return found
""")

# silent_seconds, a tag or nothing for all
JOBS = _script(r"""
local keys = ARGV[5] == '' and call('ZRANGE', JOBTAGS, 0, -1) or members(JOBTAGS, ARGV[5])
return jobs_of(keys, tonumber(ARGV[4]))
""")

# node, silent_seconds
OPEN_TAGS_OF = _script(r"""
local found, held, last = {}, held_key(ARGV[4]), nil
for _, key in ipairs(call('ZRANGE', JOBTAGS, 0, -1)) do
  local tag = sub(key, 1, 36)
  if tag ~= last and call('HEXISTS', held, tag) == 1 then
    local job = call('HGET', JOB, key)
    if job and counts(job, sub(key, 37), tonumber(ARGV[5])) then
      last = tag
      found[#found + 1] = tag
    end
  end
end
return found
""")

ENDED = _script("return call('LRANGE', ENDED, 0, -1)")
COUNTS = _script("return {call('ZCARD', HEARD), call('ZCARD', NEWEST), call('ZCARD', HOLDERS)}")
