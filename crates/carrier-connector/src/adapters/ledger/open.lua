-- Notes submits to recipients that are about to be written. The record is whole since its first entry in this run of Redis:
-- of another one, entries may be missing.
-- KEYS: since when it is whole, then the entries to each submit's recipient.
-- ARGV: now, time to keep in ms, the most to one recipient; for each submit: its name, the rest of it.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local since = redis.call('GET', KEYS[1])
if not since or string.sub(since, 1, #run) ~= run then
  redis.call('SET', KEYS[1], run .. '|' .. ARGV[1])
end
local most = tonumber(ARGV[3])
for index = 2, #KEYS do
  local name, rest = ARGV[2 * index], ARGV[2 * index + 1]
  if redis.call('HEXISTS', KEYS[index], name) == 0 and redis.call('HLEN', KEYS[index]) >= most then
    name, rest = 'more', ''
  end
  redis.call('HSET', KEYS[index], name, rest)
  redis.call('PEXPIRE', KEYS[index], ARGV[2])
end
return 1
