-- How a new job meets the owner of its key: `taskmux.driver.meeting` and `replaced` in Lua.
-- Needs: what push.lua has; owners.lua.

local function state_letter(id)
  local state = redis.call('HGET', live, id)
  return state and string.sub(state, 1, 1) or redis.call('HEXISTS', work, id) == 1 and 'w' or nil
end

-- A new job's work without its group.
local function ungrouped(job)
  local group = group_in(job, 0)
  return group == '' and job or string.sub(job, 4 + #group)
end

local function renote(i, id)
  redis.call('DEL', base .. 'n:' .. id)
  if notes[i] then
    in_chunks('HSET', base .. 'n:' .. id, notes[i])
  end
end

-- Where a job stands that gets another priority or due time. Returns its state and last place.
local function restand(id, state, last, line, stamp, fields, due)
  if state == 'w' then
    local score = redis.call('ZSCORE', line_key(line), id)
    if due then
      quit(line, id)
      last, state = score, 'd'
    else
      join(line, moved_to(tonumber(fields.p or PRIORITY), score), id, turn)
    end
  end
  if state == 'd' and due then
    redis.call('ZADD', delayed, due, stamp .. id)
    soonest = math.min(soonest, due)
  end
  return state, last
end

-- Give a job that has not begun the content of the new one: the record is the new one's, but for
-- its identity, its line, its place and, without `extend`, its time.
local function replace(id, i, fields)
  local _, _, modes = dedup_in(fields.k)
  local job, was = redis.call('HGET', work, id), redis.call('HGET', live, id)
  local stamp, line = string.sub(job, 1, STAMP), group_in(job, STAMP)
  local before = was and parse(fields_text(was)) or {}
  local state = was and string.sub(was, 1, 1) or 'w'
  local last = was and string.sub(was, 18, 33) or NOWHERE
  local fence = tonumber(was and string.sub(was, 5, 17) or string.sub(job, 1, 13))
  local is_later = string.find(modes, 'e') and string.sub(states[i], 1, 1) == 'd'
  local due = is_later and (fields.r or digits(now + fields.d))
  local stood = state
  state, last = restand(id, state, last, line, stamp, fields, due)
  fields.d, fields.c, fields.r = nil, before.c, due or before.r
  fields.g = line ~= '' and line or nil
  local prefix = line == '' and '' or string.format('%03d', #line) .. line
  redis.call('HSET', work, id, stamp .. prefix .. ungrouped(works[i]))
  redis.call('HSET', live, id,
    head(state, '00' .. (notes[i] and '1' or '0'), fence, last) .. NOBODY .. serialise(fields))
  renote(i, id)
  if state ~= stood and created[id] then
    letters[created[id]] = state
  elseif state ~= stood then
    tell(set[3], now, 's', state, {id})
  end
end

-- Returns the letter of the answer and the job that it names; 'S' if the new job is to follow.
local function meet(owner, i, fields)
  local key, ttl, modes = dedup_in(fields.k)
  local is_latest = string.find(modes, 'l')
  if string.sub(states[i], 1, 1) == 'b' or not (is_latest or string.find(modes, 'r')) then
    return 'D', owner
  end
  flush()
  local next_one = is_latest and successor_of(key)
  if next_one then
    replace(next_one, i, fields)
    return 'R', next_one
  end
  local state = state_letter(owner)
  if state == 'w' or state == 'd' then
    replace(owner, i, fields)
    redis.call('ZREM', throttled, key)
    own(key, owner, ttl)
    return 'R', owner
  elseif is_latest and state == 'a' then
    return 'S', owner
  end
  return 'D', owner
end

-- Let a new job follow the owner of its key.
local function follow(key, id, i, fields)
  if string.sub(states[i], 1, 1) == 'd' then
    fields.r = fields.r or digits(now + fields.d)
    fields.d = nil
  end
  fields.c = 'dedup'
  redis.call('HSET', successors, key, id)
end
