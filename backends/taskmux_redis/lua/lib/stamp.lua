-- A job's stamp: when it was created and how-manieth, in digits that sort. It begins the stored
-- job, and the members of indexes whose ties are broken by creation.
local STAMP = 23

local function stamp_of(now, turn)
  return string.format('%013.0f%010.0f', now, turn)
end

local function created(stamped)
  return tonumber(string.sub(stamped, 1, 13))
end
