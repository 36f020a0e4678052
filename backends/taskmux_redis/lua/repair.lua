-- Look at some of a queue's records and index entries, and put right what is wrong with them.
--
-- KEYS: base, work, live, ready, grouped, ring, parked, delayed, blocked, leases, completed, dead,
--   cancelled, moved, counted, dedup, sequence, settings, events, numbers, corrupt, full, marker, repair
-- ARGV: since
--   since: the walk that is wanted began after this instant; 'now': after this call; '': any, but if
--   the sizes of the indexes do not add up to the number of records, or a client has left word that
--   a script failed, as 'now'
-- Returns: {since, done, put back, dropped, turns}: done is 0 while calls with that `since` must
--   follow; then how many jobs, entries and lines this call put right.
--
-- What a record says is the truth. Redis undoes nothing of a script that fails half-way: a record that
-- its state's index does not have goes back there, an entry whose job is not there or in another state
-- goes, and a line with waiting jobs has a turn; also after somebody changed keys by hand.
--
-- All callers share one walk, whose place is in `repair`: the records first, by HSCAN, then each
-- index by rank. A call looks at so many that it blocks the server for a millisecond or two.
-- The first write frees memory, so a full store can still be repaired as far as there is room.
--! include clock
--! include chunks
--! include order
--! include stamp
--! include live
--! include wake
--! include lines
--! include tell

local MOST, BYTES, KEPT = 200, 131072, 3600000
local LEASE = 10000 -- milliseconds in which a holder that is alive after all renews or ends it
local FEW_ASIDE = 2000
local sub = string.sub
local now = clock()
local INDEX = {w = ready, d = delayed, b = blocked, a = leases, c = completed, f = dead,
  k = cancelled, m = moved}
local LETTER, STAMPED = {[grouped] = 'w'}, {[delayed] = true, [blocked] = true}
local WALK = {grouped, ready, delayed, blocked, leases, completed, dead, cancelled, moved}
for letter, key in pairs(INDEX) do
  LETTER[key] = letter
end
local put_back, dropped, turns, woken = 0, 0, 0, 0

-- A record that cannot be read has this mark in `corrupt`, so that it is left there.
local function is_set_aside(seen)
  return seen and sub(seen, -1) == '!'
end

-- -- whether a walk is wanted ---------------------------------------------------------------------

-- How many records are in no index on purpose: at least, and at most.
local function count_aside()
  local count, seen, cursor = 0, 0, '0'
  repeat
    local page = redis.call('HSCAN', corrupt, cursor, 'COUNT', 500)
    cursor = page[1]
    for i = 1, #page[2], 2 do
      seen = seen + 1
      if is_set_aside(page[2][i + 1]) then
        count = count + redis.call('HEXISTS', work, page[2][i])
      end
    end
  until cursor == '0' or seen >= FEW_ASIDE
  return count, cursor == '0' and count or math.huge
end

local function adds_up()
  local outside, waiting = redis.call('HLEN', work), 0
  for i, key in ipairs(WALK) do
    local size = redis.call('ZCARD', key)
    outside = outside - size
    waiting = i <= 2 and waiting + size or waiting
  end
  if waiting > 0 and redis.call('EXISTS', ring, parked) == 0 then
    return false
  end
  local least, most = count_aside()
  return least <= outside and outside <= most
end

local walk = redis.call('HMGET', repair, 'at', 'place', 'began', 'ended', 'size', 'asked')
local at, place, began = tonumber(walk[1]), walk[2], tonumber(walk[3])
local ended, size, asked = tonumber(walk[4] or 0), tonumber(walk[5] or 10), walk[6]

if since == 'now' or since == '' and (asked or not adds_up()) then
  since = digits(now)
end
local wanted = tonumber(since) or 0
if wanted > 0 and ended > wanted then
  return {since, 1, 0, 0, 0}
end
redis.call('ZREM', leases, '')
if asked then
  redis.call('HDEL', repair, 'asked')
end
if not at or began <= wanted then
  if wanted == 0 and redis.call('EXISTS', work) == 0 then
    return {since, 1, 0, 0, 0}
  end
  at, place, began = 0, '0', math.max(now, wanted + 1)
end

-- -- records --------------------------------------------------------------------------------------

-- Returns the letter of a record's state and its fields; nil if it cannot be read.
local function read(job, state)
  if not tonumber(sub(job, 1, STAMP)) then
    return nil
  elseif not state then
    return 'w', {g = group_in(job, STAMP)}
  end
  local letter, fields = sub(state, 1, 1), parse(fields_text(state))
  if INDEX[letter] and fields and tonumber(sub(state, 5, 17)) then
    return letter, fields
  end
end

local function entry_of(key, job, id)
  return STAMPED[key] and sub(job, 1, STAMP) .. id or id
end

-- Each line is looked at once in a call.
local has_turn = {}

local function give_turn(line)
  if not has_turn[line] then
    has_turn[line] = true
    if not (redis.call('ZSCORE', ring, line) or redis.call('ZSCORE', parked, line)) then
      redis.call('ZADD', ring, redis.call('INCR', sequence), line)
      turns, woken = turns + 1, woken + 1
    end
  end
end

-- Where a job stood last, or as it would after it was pushed.
local function place_of(job, state, fields)
  local priority, last = tonumber(fields.p or PRIORITY), state and sub(state, 18, 33) or NOWHERE
  if last ~= NOWHERE and tonumber(last) then
    return moved_to(priority, last)
  end
  return (fields.l and front or back)(priority, tonumber(sub(job, 14, STAMP)))
end

local function put_in_line(id, job, state, fields)
  local line = fields.g or ''
  local score = redis.call('ZSCORE', line_key(line), id)
  if not score or line ~= '' and not redis.call('ZSCORE', grouped, id) then
    score = score or place_of(job, state, fields)
    redis.call('ZADD', line_key(line), score, id)
    if line ~= '' then
      redis.call('ZADD', grouped, score, id)
    end
    put_back, woken = put_back + 1, woken + 1
  end
  give_turn(line)
end

local function score_of(letter, job, fields)
  if letter == 'd' then
    return fields.r or digits(now)
  elseif letter == 'b' then
    return created(job)
  elseif letter == 'a' then
    return now + LEASE
  end
  return tonumber(fields.e or now) * 2048 + tonumber(sub(job, 14, STAMP)) % 2048
end

local function put_in_index(letter, id, job, fields)
  local line = letter == 'a' and fields.g or ''
  if line ~= '' and not redis.call('ZSCORE', running_key(line), id) then
    redis.call('ZADD', running_key(line), now, id)
  end
  local key = INDEX[letter]
  if redis.call('ZSCORE', key, entry_of(key, job, id)) then
    return
  end
  redis.call('ZADD', key, score_of(letter, job, fields), entry_of(key, job, id))
  if fields.e and fields.t then
    redis.call('ZADD', counted, fields.e, id)
  end
  put_back, woken = put_back + 1, woken + 1
end

-- What jobs that wait for the owner of a deduplication key need.
local keyed

local function with_keys()
  local function flush()
  end
  local function state_of(id)
    return redis.call('HGET', live, id)
  end
  local function put_state(id, state)
    redis.call('HSET', live, id, state)
  end
--! include owners
--! include followers
  return follow_again
end

local function is_indexed(id, job)
  for _, key in ipairs(WALK) do
    if redis.call('ZSCORE', key, entry_of(key, job, id)) then
      return true
    end
  end
  return false
end

local function look_at(id, job, state, seen)
  local key = state and INDEX[sub(state, 1, 1)]
  if not seen and key and key ~= ready and key ~= leases and key ~= blocked
    and redis.call('ZSCORE', key, entry_of(key, job, id)) then
    return -- nearly always: the fields, which may be long, are not looked at
  end
  local letter, fields = read(job, state)
  if is_set_aside(seen) or not letter then
    local indexed = is_indexed(id, job)
    if not indexed and not is_set_aside(seen) then
      redis.call('HSET', corrupt, id, digits(now) .. '!')
    elseif indexed and letter and seen then
      redis.call('HDEL', corrupt, id) -- it was pushed anew
    end
    return
  elseif letter == 'w' then
    put_in_line(id, job, state, fields)
  else
    put_in_index(letter, id, job, fields)
  end
  if letter == 'b' and fields.c == 'dedup' and fields.k then
    keyed = keyed or with_keys()
    put_back = put_back + (keyed(id, fields.k) and 1 or 0)
  end
  if seen then
    redis.call('HDEL', corrupt, id)
  end
end

-- -- the walk -------------------------------------------------------------------------------------

local bytes = 0

local function look_at_records()
  local page = redis.call('HSCAN', work, place, 'COUNT', size)
  local found, ids = page[2], {}
  for i = 1, #found, 2 do
    ids[#ids + 1] = found[i]
    bytes = bytes + #found[i + 1]
  end
  local states = look_up(live, ids)
  local aside = redis.call('EXISTS', corrupt) == 1 and look_up(corrupt, ids) or {}
  for i = 1, #ids do
    bytes = bytes + #(states[i] or '')
    look_at(ids[i], found[2 * i], states[i], aside[i])
  end
  place = page[1]
  if place == '0' then
    at = 1
  end
end

local function is_of(key, id, state)
  local letter = state and sub(state, 1, 1)
    or redis.call('HEXISTS', work, id) == 1 and 'w'
  return letter == LETTER[key] or state and not INDEX[letter] -- unreadable: whoever meets it says so
end

local function look_at_entries()
  local key, rank = WALK[at], tonumber(place)
  local entries = redis.call('ZRANGE', key, rank, rank + size - 1)
  local ids, wrong = {}, {}
  for i = 1, #entries do
    ids[i] = STAMPED[key] and sub(entries[i], STAMP + 1) or entries[i]
  end
  local states = look_up(live, ids)
  for i = 1, #ids do
    bytes = bytes + #(states[i] or '')
    if not is_of(key, ids[i], states[i])
      or states[i] and redis.call('HEXISTS', work, ids[i]) == 0 then
      wrong[#wrong + 1] = entries[i]
    end
  end
  in_chunks('ZREM', key, wrong)
  dropped = dropped + #wrong
  place = digits(rank + #entries - #wrong)
  if #entries < size then
    at, place = at + 1, '0'
  end
end

if at == 0 then
  look_at_records()
end
-- Short indexes are looked at together.
local left = 2
while at > 0 and at <= #WALK and left > 0 and bytes < BYTES do
  local before = at
  look_at_entries()
  left = at > before and redis.call('ZCARD', WALK[before]) == 0 and left or left - 1
end
if dropped > 0 then
  redis.call('DEL', full) -- a lease may have been among them
  woken = woken + 1
end
wake(woken)
size = bytes > BYTES and math.max(1, math.floor(size / 4)) or math.min(MOST, size * 2)
if at > #WALK then
  ended = began
  redis.call('HDEL', repair, 'at', 'place', 'began')
else
  redis.call('HSET', repair, 'at', at, 'place', place, 'began', digits(began))
end
redis.call('HSET', repair, 'size', size, 'ended', digits(ended))
redis.call('PEXPIRE', repair, KEPT)
return {since, (wanted == 0 or ended > wanted) and 1 or 0, put_back, dropped, turns}
