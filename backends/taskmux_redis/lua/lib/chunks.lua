-- unpack() fails beyond some 8,000 values, so long lists go in pieces of an even length.
local CHUNK = 4000

local function in_chunks(command, key, values)
  for first = 1, #values, CHUNK do
    redis.call(command, key, unpack(values, first, math.min(first + CHUNK - 1, #values)))
  end
end
