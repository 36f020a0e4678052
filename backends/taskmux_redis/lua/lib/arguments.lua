-- Variable arguments, one by one. Needs: items, the position before the first of them.
local function take()
  items = items + 1
  return ARGV[items]
end
