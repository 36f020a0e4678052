-- What a batch of transitions says, read from the arguments of `apply.lua`: `ways` has the shapes,
-- `sets` the fields to set, and for each transition `ids` has its job, `starts` where it begins in
-- the plan, `owns` the fields of its own, if any.
-- Needs: FINAL, sub, format, shapes, changes, count, plan; arguments.lua.
local NOTHING = '0000000000'
local ways, sets, ids, starts, owns = {}, {}, {}, {}, {}
for i = 1, tonumber(shapes) do
  local way = {states = take(), cause = take(), to = take(), run_at = take(), delay = take(),
    place = take(), age = take(), keep = take()}
  local flags = take()
  way.remove, way.flag = string.find(flags, 'r') ~= nil, string.find(flags, 'f') ~= nil
  way.asked, way.started = string.match(flags, 'z(%d)'), string.match(flags, 'g(%d)')
  way.rest, way.rest_line = string.match(flags, 'h(%d+)'), string.match(flags, 'l(%d+)')
  way.unset = take()
  way.is_plain_end = FINAL[way.to] and way.keep == '' and flags == ''
  way.code = 'A' .. way.to
  ways[format('%03d', i)] = way
end
for i = 1, tonumber(changes) do
  sets[format('%03d', i)] = take()
end
local at = 1
for i = 1, count do
  local first, length, own = at + 33, sub(plan, at + 19, at + 22), sub(plan, at + 23, at + 32)
  local last = first + length
  ids[i], starts[i], at = sub(plan, first, last - 1), at, last
  if own ~= NOTHING then
    at = last + own
    owns[i] = sub(plan, last, at - 1)
  end
end
