-- unpack() fails beyond some 8,000 values, so long lists go in pieces of an even length.
local CHUNK = 4000

local function in_chunks(command, key, values)
  for first = 1, #values, CHUNK do
    redis.call(command, key, unpack(values, first, math.min(first + CHUNK - 1, #values)))
  end
end

-- The values of these fields of a hash, in order; false where there is none.
local function look_up(key, names)
  if #names <= CHUNK then
    return #names > 0 and redis.call('HMGET', key, unpack(names)) or {}
  end
  local found = {}
  for first = 1, #names, CHUNK do
    local last = math.min(first + CHUNK - 1, #names)
    local some = redis.call('HMGET', key, unpack(names, first, last))
    for i = 1, #some do
      found[#found + 1] = some[i]
    end
  end
  return found
end
