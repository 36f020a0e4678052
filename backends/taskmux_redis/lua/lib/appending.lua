-- Fields that are added to a live string as it is, where none that it has is touched.
-- Needs: live.lua.

-- The letters of the fields in a text.
local function letters(text)
  local found = {}
  for name in pairs(parse(text)) do
    found[#found + 1] = name
  end
  return table.concat(found)
end

-- The line of a job if none of its fields, which begin there, is touched; else nil.
local function line_untouched(state, at, touched)
  local line = ''
  while at <= #state do
    local name, length, start = string.match(state, '^(.)(%d+):()', at)
    if not name or string.find(touched, name, 1, true) then
      return nil
    end
    at = start + length
    if name == 'g' then
      line = string.sub(state, start, at - 1)
    end
  end
  return at == #state + 1 and line or nil
end
