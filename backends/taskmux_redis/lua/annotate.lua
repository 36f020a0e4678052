-- Write progress, steps and log lines of running jobs.
--
-- KEYS: base
-- ARGV: items...
--   item: id, fence, log index or '', log line, pairs, then that many fields and values
-- Returns: two letters a note, as `apply.lua` does: A applied, S stale, G gone; then the state.
--! include arguments

local function note(id, fence)
  local index, line, fields = take(), take(), {}
  for i = 1, 2 * take() do
    fields[i] = take()
  end
  local key = base .. 's:' .. id
  local live = redis.pcall('HMGET', key, 's', 'f', '#')
  if live.err or (not live[1] and redis.call('EXISTS', base .. 'j:' .. id) == 0) then
    return 'G-'
  elseif live[1] ~= 'a' or live[2] ~= fence then
    return 'S' .. (live[1] or 'w')
  end
  local lines = tonumber(live[3] or 0)
  if index ~= '' and tonumber(index) >= lines then
    fields[#fields + 1] = string.format('#%d', lines)
    fields[#fields + 1] = line
    fields[#fields + 1] = '#'
    fields[#fields + 1] = lines + 1
  end
  for first = 1, #fields, 4000 do
    redis.call('HSET', key, unpack(fields, first, math.min(first + 3999, #fields)))
  end
  return 'Aa'
end

local codes = {}
while items < #ARGV do
  codes[#codes + 1] = note(take(), take())
end
return table.concat(codes)
