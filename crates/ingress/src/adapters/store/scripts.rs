//! The scripts that decide. Each begins by asking whether the shard is ready: its marker holds this server's run id.

use sotto_runtime::redis::Script;

/// `ready(key)`: whether what Redis holds of a shard is whole.
const READY: &str = "
local function run_id()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
end
local function ready(key)
  return redis.call('GET', key) == run_id()
end
";

/// `version(key)`: the first eight bytes of a record as a number; -1 without record.
const VERSION: &str = "
local function version(key)
  local bytes = redis.call('GETRANGE', key, 0, 7)
  if #bytes < 8 then return -1 end
  local number = 0
  for place = 1, 8 do number = number * 256 + string.byte(bytes, place) end
  return number
end
";

/// `put(key, due, value, ttl, deadline, id)`: writes a record and its deadline.
const PUT: &str = "
local function put(key, due, value, ttl, deadline, id)
  if ttl == '0' then redis.call('SET', key, value) else redis.call('SET', key, value, 'PX', ttl) end
  if deadline == '' then redis.call('ZREM', due, id) else redis.call('ZADD', due, deadline, id) end
end
";

/// marker, entry; entry's bytes, end. The earlier use, 0 if claimed now, nil if not ready.
const CLAIM: &str = "
if not ready(KEYS[1]) then return false end
local used = redis.call('GET', KEYS[2])
if used then return used end
redis.call('SET', KEYS[2], ARGV[1], 'PXAT', ARGV[2])
return 0
";

/// marker, entry; milliseconds to close the window for, the closing value. As above.
const LOOK: &str = "
if not ready(KEYS[1]) then return false end
local used = redis.call('GET', KEYS[2])
if used then return used end
if ARGV[1] ~= '0' then redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[1]) end
return 0
";

/// marker, record, entry. Whether it is ready, the record, the entry.
const FIND: &str = "
local is_ready = 0
if ready(KEYS[1]) then is_ready = 1 end
return {is_ready, redis.call('GET', KEYS[2]), redis.call('GET', KEYS[3])}
";

/// marker, records. The records, nil if not ready.
const LOAD: &str = "
if not ready(KEYS[1]) then return false end
return redis.call('MGET', unpack(KEYS, 2))
";

/// marker, due, records; for each: version expected (-1: none), value, ttl, deadline, id. 0 written, 1 one of them has
/// changed and nothing is written, 2 not ready.
const SAVE: &str = "
if not ready(KEYS[1]) then return 2 end
for at = 3, #KEYS do
  if version(KEYS[at]) ~= tonumber(ARGV[(at - 3) * 5 + 1]) then return 1 end
end
for at = 3, #KEYS do
  local arg = (at - 3) * 5
  put(KEYS[at], KEYS[2], ARGV[arg + 2], ARGV[arg + 3], ARGV[arg + 4], ARGV[arg + 5])
end
return 0
";

/// due, records; for each: its version, value, ttl, deadline, id. Writes where nothing newer stands. How many.
const RESTORE: &str = "
local written = 0
for at = 2, #KEYS do
  local arg = (at - 2) * 5
  if version(KEYS[at]) <= tonumber(ARGV[arg + 1]) then
    put(KEYS[at], KEYS[1], ARGV[arg + 2], ARGV[arg + 3], ARGV[arg + 4], ARGV[arg + 5])
    written = written + 1
  end
end
return written
";

/// marker, token; milliseconds, who. Begins a rebuild, unless another process is at it: the run id, or nil.
const START: &str = "
local run = run_id()
local mine = run .. '/' .. ARGV[2]
local held = redis.call('GET', KEYS[2])
if held and held ~= mine and string.sub(held, 1, #run) == run then return false end
redis.call('SET', KEYS[2], mine, 'PX', ARGV[1])
return run
";

/// token; milliseconds, run id and who. Goes on with a rebuild: 1 if it is still ours.
const RENEW: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
";

/// marker, token; run id at the start, who. Ends a rebuild: 1 if it is still ours and nothing was lost meanwhile.
const FINISH: &str = "
local run = run_id()
if run ~= ARGV[1] or redis.call('GET', KEYS[2]) ~= run .. '/' .. ARGV[2] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('SET', KEYS[1], run)
return 1
";

/// how far, entries; sequence, then for each entry: its bytes, end. What the projection has read, and the uses of keys in
/// it.
const FOLDED: &str = "
if tonumber(redis.call('GET', KEYS[1]) or 0) < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[1]) end
for at = 2, #KEYS do
  redis.call('SET', KEYS[at], ARGV[(at - 1) * 2], 'PXAT', ARGV[(at - 1) * 2 + 1])
end
return #KEYS - 1
";

/// marker. 1 if ready.
const STATUS: &str = "
if ready(KEYS[1]) then return 1 end
return 0
";

/// marker, due; now, how many. Ids whose deadline has passed, nil if not ready.
const DUE: &str = "
if not ready(KEYS[1]) then return false end
return redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
";

/// arrival; interval and tolerance in microseconds. 0 passes, else microseconds to wait (GCRA).
const PACE: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local arrival = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
local following = arrival + ARGV[1]
local wait = following - ARGV[2] - now
if wait > 0 then return math.ceil(wait) end
redis.call('SET', KEYS[1], string.format('%.0f', following), 'PX', math.ceil((following - now) / 1000) + 1000)
return 0
";

pub(super) struct Scripts {
    pub(super) claim: Script,
    pub(super) look: Script,
    pub(super) find: Script,
    pub(super) load: Script,
    pub(super) save: Script,
    pub(super) restore: Script,
    pub(super) start: Script,
    pub(super) renew: Script,
    pub(super) folded: Script,
    pub(super) finish: Script,
    pub(super) status: Script,
    pub(super) due: Script,
    pub(super) pace: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let script = |parts: &[&str]| Script::new(&parts.concat());
        Self {
            claim: script(&[READY, CLAIM]),
            look: script(&[READY, LOOK]),
            find: script(&[READY, FIND]),
            load: script(&[READY, LOAD]),
            save: script(&[READY, VERSION, PUT, SAVE]),
            restore: script(&[VERSION, PUT, RESTORE]),
            start: script(&[READY, START]),
            renew: script(&[RENEW]),
            folded: script(&[FOLDED]),
            finish: script(&[READY, FINISH]),
            status: script(&[READY, STATUS]),
            due: script(&[READY, DUE]),
            pace: script(&[PACE]),
        }
    }
}
