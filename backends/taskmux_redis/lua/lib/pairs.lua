-- Leases come as id, fence, id, fence, ... Needs: items, live; chunks.lua.
local function leases_asked()
  local ids, fences = {}, {}
  for i = items + 1, #ARGV, 2 do
    ids[#ids + 1] = ARGV[i]
    fences[#fences + 1] = ARGV[i + 1]
  end
  return ids, fences, look_up(live, ids)
end
