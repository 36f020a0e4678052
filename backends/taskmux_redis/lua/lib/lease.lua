-- Whether a live string is of an active job under this fence.
local function is_held(state, fence)
  return state and string.sub(state, 1, 1) == 'a'
    and tonumber(string.sub(state, 5, 17)) == tonumber(fence)
end

local function is_asked(state)
  return string.sub(state, 2, 2) == '1'
end
