-- Write progress, steps and log lines of running jobs, each job's into a hash of its own.
--
-- KEYS: base, work, live, settings, events, numbers
-- ARGV: longest, items...
--   longest: the most bytes of a progress that its event has
--   item: id, fence, log index or '', log line, pairs, then that many fields and values
-- Returns: two letters a note, as `apply.lua` does: A applied, S stale, G gone; then the state.
--! include arguments
--! include chunks
--! include lease
--! include clock
--! include live
--! include tell

local noted, data = {}, {}

local function tell_progress(id, progress)
  noted[#noted + 1] = id
  if #progress <= tonumber(longest) then
    data[#data + 1] = #noted
    data[#data + 1] = progress
  end
end

local function note(id, fence)
  local index, line, fields = take(), take(), {}
  for i = 1, 2 * take() do
    fields[i] = take()
  end
  local state = redis.call('HGET', live, id)
  if not is_held(state, fence) then
    if redis.call('HEXISTS', work, id) == 0 then
      return 'G-'
    end
    return 'S' .. (state and string.sub(state, 1, 1) or 'w')
  end
  local key = base .. 'n:' .. id
  if fields[1] == 'v' then
    tell_progress(id, fields[2])
  end
  local lines = index ~= '' and tonumber(redis.call('HGET', key, '#') or 0)
  if lines and tonumber(index) >= lines then
    fields[#fields + 1] = string.format('#%d', lines)
    fields[#fields + 1] = line
    fields[#fields + 1] = '#'
    fields[#fields + 1] = lines + 1
  end
  if #fields > 0 then
    in_chunks('HSET', key, fields)
    redis.call('HSET', live, id, string.sub(state, 1, 3) .. '1' .. string.sub(state, 5))
  end
  return 'Aa'
end

local codes = {}
while items < #ARGV do
  codes[#codes + 1] = note(take(), take())
end
if #noted > 0 then
  tell(redis.call('HGET', settings, 'events'), clock(), 'v', '', noted, unpack(data))
end
return table.concat(codes)
