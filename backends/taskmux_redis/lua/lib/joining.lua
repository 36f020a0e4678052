-- Many jobs that join lines at once: a few commands a line. Needs: lines.lua.
local joining, joined = {}, {}

local function will_join(line, score, id, turn)
  local jobs = joining[line]
  if not jobs then
    jobs = {turn = turn}
    joining[line], joined[#joined + 1] = jobs, line
  end
  jobs[#jobs + 1] = score
  jobs[#jobs + 1] = id
end

local function join_all()
  for _, line in ipairs(joined) do
    in_chunks('ZADD', line_key(line), joining[line])
    if line ~= '' then
      in_chunks('ZADD', grouped, joining[line])
    end
    take_turn(line, joining[line].turn)
  end
  joining, joined = {}, {}
end
