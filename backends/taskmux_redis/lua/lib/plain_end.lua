-- The common end of a run: what it leaves is added to the live string as it is, where no field that
-- the string has is touched. Needs: what apply.lua has; live.lua.

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

-- What a plain end touches, by its shape and settings as the plan has them: fields that it sets or
-- drops, and those that an end is about.
local touches = {}

local function touched_by(kind, way)
  local known = touches[kind]
  if not known then
    known = way.unset .. letters(sets[sub(kind, 4)]) .. 'yetck'
    touches[kind] = known
  end
  return known
end

-- The common end, with no more work than it takes: what a run leaves is added to the fields that
-- there are. Returns nil where `move` must look closer.
local function finish_plainly(way, id, fence, setting, kind)
  local state = states[id]
  if not (way.is_plain_end and state) or sub(state, 1, 1) ~= 'a' or sub(state, 5, 17) ~= fence
    or sub(state, 2, 2) == '1' then
    return nil
  end
  local length = tonumber(sub(state, 34, 36))
  local line = length and line_untouched(state, 37 + length, touched_by(kind, way))
  if not line then
    return nil
  end
  local value = way.to .. sub(state, 2, 2) .. '0' .. sub(state, 4, 33) .. NOBODY
    .. sub(state, 37 + length) .. setting .. FINISHED
  states[id], written[id] = value, value
  stop(line, id)
  enter_final(way, way.to, id)
  return way.code
end
