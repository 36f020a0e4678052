-- The order of a line: score = priority * 2^42 + sequence, exact in the 53 bits of a double.
-- Sequences start in the middle: the back of a line counts up from there, the front down.
local LINE, MIDDLE = 4398046511104, 2199023255552
local PRIORITY = 100

local function back(priority, turn)
  return priority * LINE + MIDDLE + turn
end

local function front(priority, turn)
  return priority * LINE + MIDDLE - turn
end

-- The same sequence at another priority.
local function moved_to(priority, score)
  return priority * LINE + score % LINE
end
