-- Puts back an intent that the log tells, unless an end is known. A claim of before the intent gives way: a Redis that
-- was restarted may have lost the step from one to the other.
-- KEYS: the claim. ARGV: the intent, time to keep in ms.
local value = redis.call('GET', KEYS[1])
if not value or string.sub(value, 1, 2) == 'c|' then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
