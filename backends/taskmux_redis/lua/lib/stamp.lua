-- A job's stamp: when it was created, and a number that tells jobs of one millisecond apart, in
-- digits that sort. It begins the stored job, and the members of indexes that put jobs of one score
-- in the order of creation.
local STAMP = 23

local function stamp_of(now, turn)
  return string.format('%013.0f%010.0f', now, turn)
end

local function created(stamped)
  return tonumber(string.sub(stamped, 1, 13))
end
