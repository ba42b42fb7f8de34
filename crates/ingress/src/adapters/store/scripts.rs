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

/// `put(key, index, due, gone, arg)`: writes a record, its deadline, its place in its tenant's list and when it leaves
/// that. From `arg`: value, ttl, deadline, id, acceptance (empty: not known), what is to be forgotten and when (empty:
/// not yet).
const PUT: &str = "
local function put(key, index, due, gone, arg)
  local value, ttl, deadline, id = ARGV[arg], ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3]
  if ttl == '0' then redis.call('SET', key, value) else redis.call('SET', key, value, 'PX', ttl) end
  if deadline == '' then redis.call('ZREM', due, id) else redis.call('ZADD', due, deadline, id) end
  if ARGV[arg + 4] ~= '' then redis.call('ZADD', index, ARGV[arg + 4], id) end
  if ARGV[arg + 6] ~= '' then redis.call('ZADD', gone, ARGV[arg + 6], ARGV[arg + 5]) end
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

/// marker, how far, records. What the projection has read, and the records; nil if not ready.
const LOAD: &str = "
if not ready(KEYS[1]) then return false end
local records = {}
if #KEYS > 2 then records = redis.call('MGET', unpack(KEYS, 3)) end
return {tonumber(redis.call('GET', KEYS[2]) or 0), records}
";

/// marker, how far, due, gone, then sections of keys: records that must not exist, those of messages that live, those that
/// are forgotten, lists of tenants, entries. How far it was and is, how many are in each section (keys that must not exist,
/// living, ended, deadlines, ids without deadline, forgotten, lists, entries), then for each section its arguments. 0
/// written; nothing is written: 1 a record was begun meanwhile, 2 not ready, 3 somebody else has read on.
const SAVE: &str = "
if not ready(KEYS[1]) then return 2 end
if tonumber(redis.call('GET', KEYS[2]) or 0) ~= tonumber(ARGV[1]) then return 3 end
local function count(at) return tonumber(ARGV[at]) end
local key, arg = 5, 11
local function keys(n)
  local from = key
  key = key + n
  return unpack(KEYS, from, key - 1)
end
local function args(n)
  local from = arg
  arg = arg + n
  return unpack(ARGV, from, arg - 1)
end
if count(3) > 0 and redis.call('EXISTS', keys(count(3))) > 0 then return 1 end
if count(4) > 0 then
  local both = {}
  for n = 0, count(4) - 1 do
    both[2 * n + 1] = KEYS[key + n]
    both[2 * n + 2] = ARGV[arg + n]
  end
  redis.call('MSET', unpack(both))
  key, arg = key + count(4), arg + count(4)
end
for _ = 1, count(5) do
  redis.call('SET', keys(1), ARGV[arg], 'PX', ARGV[arg + 1])
  arg = arg + 2
end
if count(6) > 0 then redis.call('ZADD', KEYS[3], args(2 * count(6))) end
if count(7) > 0 then redis.call('ZREM', KEYS[3], args(count(7))) end
if count(8) > 0 then redis.call('ZADD', KEYS[4], args(2 * count(8))) end
for _ = 1, count(9) do
  local list, members = keys(1), 2 * tonumber(args(1))
  redis.call('ZADD', list, args(members))
end
for _ = 1, count(10) do
  redis.call('SET', keys(1), ARGV[arg], 'PXAT', ARGV[arg + 1])
  arg = arg + 2
end
if ARGV[1] ~= ARGV[2] then redis.call('SET', KEYS[2], ARGV[2]) end
return 0
";

/// due, gone, then each record and its tenant's list; for each: its version and what `put` takes. Writes where nothing
/// newer stands. How many.
const RESTORE: &str = "
local written = 0
for at = 3, #KEYS, 2 do
  local arg = (at - 3) * 4
  if version(KEYS[at]) <= tonumber(ARGV[arg + 1]) then
    put(KEYS[at], KEYS[at + 1], KEYS[1], KEYS[2], arg + 2)
    written = written + 1
  end
end
return written
";

/// marker, a tenant's list; the oldest acceptance, the newest, at that time only ids before this one (empty: all), how
/// many. Acceptances and ids, the newest first, nil if not ready.
const LIST: &str = "
if not ready(KEYS[1]) then return false end
local oldest, newest, before, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local found = {}
if before ~= '' then
  for _, id in ipairs(redis.call('ZREVRANGEBYSCORE', KEYS[2], newest, newest)) do
    if id < before and #found < 2 * most then
      found[#found + 1] = newest
      found[#found + 1] = id
    end
  end
  newest = '(' .. newest
end
local rest = redis.call('ZREVRANGEBYSCORE', KEYS[2], newest, oldest, 'WITHSCORES', 'LIMIT', 0, most - #found / 2)
for at = 1, #rest, 2 do
  found[#found + 1] = rest[at + 1]
  found[#found + 1] = rest[at]
end
return found
";

/// marker, token, how far a rebuild came; milliseconds, who. Begins a rebuild, unless another process is at it: the run id and how
/// far an earlier one came in the same run of Redis (0: not at all), or nil.
const START: &str = "
local run = run_id()
local mine = run .. '/' .. ARGV[2]
local held = redis.call('GET', KEYS[2])
if held and held ~= mine and string.sub(held, 1, #run) == run then return false end
redis.call('SET', KEYS[2], mine, 'PX', ARGV[1])
local of, sequence = string.match(redis.call('GET', KEYS[3]) or '', '^(%x+)/(%d+)$')
return {run, of == run and sequence or '0'}
";

/// token, how far the rebuild came; milliseconds, run id and who, then run id and sequence (empty: no farther than it was) and how
/// long that is remembered. Goes on with a rebuild: 1 if it is still ours.
const RENEW: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
if ARGV[3] ~= '' then redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4]) end
return 1
";

/// marker, token, how far the rebuild came; run id at the start, who. Ends a rebuild: 1 if it is still ours and nothing was lost meanwhile.
const FINISH: &str = "
local run = run_id()
if run ~= ARGV[1] or redis.call('GET', KEYS[2]) ~= run .. '/' .. ARGV[2] then return 0 end
redis.call('DEL', KEYS[2], KEYS[3])
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

/// a number's messages; one more, how many there may be, the end of the day. Whether it is one of so many.
const COUNT: &str = "
if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 1 then return 1 end
local there = redis.call('SCARD', KEYS[1])
if there >= tonumber(ARGV[2]) then return 0 end
redis.call('SADD', KEYS[1], ARGV[1])
if there == 0 then redis.call('PEXPIREAT', KEYS[1], ARGV[3]) end
return 1
";

/// the mark; the connectors' marker of the shard, what the mark says of a cancelled message, milliseconds to keep. 1
/// cancelled, 0 handed to a carrier, nil if not ready. The marker is no declared key, since that would need the right to
/// write it; it shares the hash tag of the mark.
const CANCEL: &str = "
local marker = redis.call('GET', ARGV[1])
local run = run_id()
if not marker or string.sub(marker, 1, #run) ~= run then return false end
local mark = redis.call('GET', KEYS[1])
if not mark then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
if mark and mark ~= ARGV[2] then return 0 end
return 1
";

/// arrival; interval (times the passes asked for) and tolerance in microseconds. 0 passes, else microseconds to wait (GCRA).
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
    pub(super) list: Script,
    pub(super) cancel: Script,
    pub(super) pace: Script,
    pub(super) count: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let script = |parts: &[&str]| Script::new(&parts.concat());
        Self {
            claim: script(&[READY, CLAIM]),
            look: script(&[READY, LOOK]),
            find: script(&[READY, FIND]),
            load: script(&[READY, LOAD]),
            save: script(&[READY, SAVE]),
            restore: script(&[VERSION, PUT, RESTORE]),
            start: script(&[READY, START]),
            renew: script(&[RENEW]),
            folded: script(&[FOLDED]),
            finish: script(&[READY, FINISH]),
            status: script(&[READY, STATUS]),
            due: script(&[READY, DUE]),
            list: script(&[READY, LIST]),
            cancel: script(&[READY, CANCEL]),
            pace: script(&[PACE]),
            count: script(&[COUNT]),
        }
    }
}
