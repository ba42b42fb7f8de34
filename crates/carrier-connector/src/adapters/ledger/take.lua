-- Takes the right to rebuild. It is good in this run of Redis alone: a restart brings the lock back from the file, and
-- not all that was restored under it.
-- KEYS: lock. ARGV: token, lease in ms.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local held = redis.call('GET', KEYS[1])
if held and string.sub(held, 1, #run) == run then
  return 0
end
redis.call('SET', KEYS[1], run .. '|' .. ARGV[1], 'PX', ARGV[2])
return 1
