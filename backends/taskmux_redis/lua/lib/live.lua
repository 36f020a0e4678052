-- A job is two strings. In the hash `work`: its stamp and the work as pushed, written once. In
-- the hash `live`: its state, as soon as that is more than "waiting since it was pushed". Both
-- are hashes of the queue, so a batch of jobs is read or written by one command.
--
-- A live string has fixed places, then the worker, then fields:
--   1 state   2 asked to cancel   3 started   4 has notes   5-17 fence   18-33 last place in line
--   34-36 length of the worker's name, the name, and for each field: letter, length, `:`, value
local NOBODY = '000'

local NOWHERE = '0000000000000000'

-- `fence` is a number, `last` digits.
local function head(state, flags, fence, last)
  return state .. flags .. string.format('%013.0f', fence) .. string.sub(NOWHERE .. last, -16)
end

-- The text of the fields that follow the worker; nil if the string is not ours. Nothing here may
-- raise: an error would leave a script half done, and its jobs in no index.
local function fields_text(live)
  local length = tonumber(string.sub(live, 34, 36))
  return length and string.sub(live, 37 + length)
end

local function field(name, value)
  return name .. #value .. ':' .. value
end

-- Returns the fields by letter, or nil if the text is not ours.
local function parse(text)
  if not text then
    return nil
  end
  local fields, at = {}, 1
  while at <= #text do
    local name, length, start = string.match(text, '^(.)(%d+):()', at)
    if not name then
      return nil
    end
    at = start + length
    fields[name] = string.sub(text, start, at - 1)
  end
  return fields
end

local function serialise(fields)
  local parts = {}
  for name, value in pairs(fields) do
    parts[#parts + 1] = field(name, value)
  end
  return table.concat(parts)
end

-- A whole number as digits. tostring() would write large ones as 1.7e+12.
local function digits(number)
  return string.format('%.0f', number)
end
