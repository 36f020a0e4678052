-- The queue's stream of events: what a call changed is one record, however many jobs it was.
--
-- Events are numbered. The id of a record is the number of its last event, so that what is kept is
-- counted in events. A record has:
--   h  the time, 13 digits; a letter for what happened: `p` added, `c` changed by transitions, `s`
--      a state reached, `r` taken over, `v` progress, `x` removed, `h` paused, `g` resumed; and
--      then letters, as `events.py` reads them
--   i  the ids, with NUL between them
-- and data by the place of its job in the record, from 1.
--
-- Nothing here may raise: jobs go on, whatever somebody did to these two keys.
-- Needs: events, numbers; live.lua.
local EVENTS_KEPT, TRIMMED_BY = 10000, 64

local function tell(kept, now, what, letters, ids, ...)
  kept = tonumber(kept or EVENTS_KEPT)
  if kept == 0 or #ids == 0 then
    return
  end
  local last = redis.pcall('INCRBY', numbers, #ids)
  if type(last) ~= 'number' then
    return
  end
  local head, text, written = digits(now) .. what .. letters, table.concat(ids, '\0'), nil
  if last > kept and last % TRIMMED_BY < #ids then
    written = redis.pcall('XADD', events, 'MINID', '~', last - kept + 1, last, 'h', head, 'i', text,
      ...)
  else
    written = redis.pcall('XADD', events, last, 'h', head, 'i', text, ...)
  end
  if type(written) == 'table' and string.find(written.err, 'equal or smaller', 1, true) then
    redis.call('DEL', events) -- the numbers were lost, and begin anew
    redis.pcall('XADD', events, last, 'h', head, 'i', text, ...)
  end
end
