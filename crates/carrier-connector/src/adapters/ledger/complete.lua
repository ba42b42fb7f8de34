-- Declares the rebuilding complete. The lock is gone if Redis was lost again meanwhile.
-- KEYS: ready, lock. ARGV: token.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
redis.call('SET', KEYS[1], run .. '|' .. ARGV[1])
redis.call('DEL', KEYS[2])
return 1
