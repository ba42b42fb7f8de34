-- Notes that all that follows from the ends of parts is stored, if what they were recorded in still stands.
-- KEYS: ready, the claims. ARGV: the mark at their recording.
-- Returns 1, or 0: nothing is noted.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local mark = redis.call('GET', KEYS[1])
if not mark or mark ~= ARGV[1] or string.sub(mark, 1, #run) ~= run then
  return 0
end
for index = 2, #KEYS do
  local letter = redis.call('GETRANGE', KEYS[index], 0, 0)
  if letter ~= '' then
    redis.call('SETRANGE', KEYS[index], 0, string.upper(letter))
  end
end
return 1
