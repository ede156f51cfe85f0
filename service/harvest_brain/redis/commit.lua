#!lua
--[[
  The only writer. Checks everything, then writes everything: a script is atomic but does not roll back, so no write
  stands before the last check. Without flags the server itself refuses to start it when it is out of memory, read-only
  or can't persist.

  KEYS  1 lease            string  the fence: holds the token of who may write
        2 kill-switch      string
        3 state            hash    `_meta` and a field per position and per symbol's price memory
        4 rate             list    when the last intents were published, ms, newest first
        5 executions       stream  whose group is moved to the new cursor
        6 rejected         stream  dead letters
        7 harvests         stream  suggestions, or trade intents in live mode
        8 stop moves       stream  suggestions, or stop intents in live mode
        9 .. claim keys, then fill keys, then history keys

  ARGV  1 token            2 lease ms            3 "1" live, "0" shadow
        4 meta expected ("" for none)            5 meta to write
        6 group            7 cursor              8 entries read up to the cursor
        9 fresh ms        10 oldest price ms    11 newest price ms       12 intents allowed per minute
       13 claim TTL s     14 fill TTL s         15 bound of the streams that only we write
       16 claims          17 fills              18 histories             19 state fields set
       20 state fields deleted                  21 intents               22 dead letters
       then: a value per fill; field, value per field set; a field per field deleted;
             per intent: 7 or 8 (its stream's KEYS index), its history's index from 1 or 0, its number of fields and
             values, these; per dead letter: its number of fields and values, these

  Returns {"ok", now ms} or, with nothing written,
          {"lease"} another or nobody holds it      {"cursor"} the state moved on since it was read
          {"kill"} the switch is on                 {"stale"} a price is too old, or from the future
          {"rate"} more than the minute allows      {"claimed", claim index, ...} published before
          {"group"} the group is missing            {"type", key} a key holds another type
          {"full", key} a stream has no ids left    {"denied", command} the user's rights don't suffice
]]
local FUTURE_MS, MINUTE_MS, HISTORY = 5000, 60000, 100
local HISTORY_SECONDS = 30 * 24 * 3600
local SUGGESTED = 'suggested'
local LAST_MS = '18446744073709551615' -- no entry id can have a later time

local at = 22
local function take() at = at + 1; return ARGV[at] end
local function count(index) return tonumber(ARGV[index]) end

local claims, fills, histories = count(16), count(17), count(18)
local sets, deletes, intents, letters = count(19), count(20), count(21), count(22)
local first_claim, first_fill, first_history = 9, 9 + claims, 9 + claims + fills

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Checks.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'lease'} end

local function holds(key, kind)
  local found = redis.call('TYPE', key).ok
  return found == 'none' or found == kind
end
if not holds(KEYS[3], 'hash') then return {'type', KEYS[3]} end
if not holds(KEYS[4], 'list') then return {'type', KEYS[4]} end
for i = 5, 8 do
  if not holds(KEYS[i], 'stream') then return {'type', KEYS[i]} end
end
for i = first_history, #KEYS do
  if not holds(KEYS[i], 'zset') then return {'type', KEYS[i]} end
end

local function is_full(key)
  if redis.call('EXISTS', key) == 0 then return false end
  local info = redis.call('XINFO', 'STREAM', key)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1]:sub(1, #LAST_MS) == LAST_MS end
  end
end
for i = letters > 0 and 6 or 7, intents > 0 and 8 or 6 do
  if is_full(KEYS[i]) then return {'full', KEYS[i]} end
end

local stored = redis.call('HGET', KEYS[3], '_meta') or ''
if stored ~= ARGV[4] then return {'cursor'} end

local denied
local function need(...)
  if not denied and not redis.acl_check_cmd(...) then denied = (...) end
end
need('PEXPIRE', KEYS[1], '1')
if ARGV[5] ~= ARGV[4] then
  need('HSET', KEYS[3], '_meta', '')
  need('HDEL', KEYS[3], '_meta')
  need('XGROUP', 'SETID', KEYS[5], ARGV[6], '0', 'ENTRIESREAD', '0')
end
if fills > 0 then need('SET', KEYS[first_fill], '', 'EX', '1') end
if letters > 0 then need('XADD', KEYS[6], '*', '', '') end

if intents > 0 then
  local kill = redis.pcall('GET', KEYS[2])
  local running = kill == '0' or (kill == false and ARGV[3] == '0')
  if not running then return {'kill'} end

  if now - ARGV[10] > tonumber(ARGV[9]) or ARGV[11] - now > FUTURE_MS then return {'stale'} end

  local allowed = tonumber(ARGV[12])
  if intents > allowed then return {'rate'} end
  local oldest = redis.call('LINDEX', KEYS[4], allowed - intents)
  if oldest and now - oldest < MINUTE_MS then return {'rate'} end

  local taken = {'claimed'}
  for i = 1, claims do
    local claimed = redis.pcall('GET', KEYS[first_claim + i - 1])
    -- What was only suggested is still to be ordered, where the operator wishes to catch up.
    if claimed and not (ARGV[3] == '1' and claimed == SUGGESTED) then taken[#taken + 1] = i end
  end
  if #taken > 1 then return taken end

  need('SET', KEYS[first_claim], '', 'EX', '1')
  need('LPUSH', KEYS[4], '0')
  need('LTRIM', KEYS[4], '0', '0')
  need('PEXPIRE', KEYS[4], '1')
  need('XADD', KEYS[7], '*', '', '')
  need('XADD', KEYS[8], '*', '', '')
  if histories > 0 then
    need('ZADD', KEYS[first_history], '0', '')
    need('ZREMRANGEBYRANK', KEYS[first_history], '0', '0')
    need('EXPIRE', KEYS[first_history], '1')
  end
end
if denied then return {'denied', denied} end

-- Writes. The first one is the last check: it fails, with nothing written, when the group is missing.

if ARGV[5] ~= ARGV[4] then
  local moved = redis.pcall('XGROUP', 'SETID', KEYS[5], ARGV[6], ARGV[7], 'ENTRIESREAD', ARGV[8])
  if moved.err then return {'group'} end
  redis.call('HSET', KEYS[3], '_meta', ARGV[5])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])

for i = 0, fills - 1 do
  redis.call('SET', KEYS[first_fill + i], take(), 'EX', ARGV[14])
end
for _ = 1, sets do
  redis.call('HSET', KEYS[3], take(), take())
end
for _ = 1, deletes do
  redis.call('HDEL', KEYS[3], take())
end
for i = 0, claims - 1 do
  redis.call('SET', KEYS[first_claim + i], ARGV[3] == '1' and now or SUGGESTED, 'EX', ARGV[13])
end

local function take_entry()
  local size = tonumber(take())
  local entry = {}
  for i = 1, size do entry[i] = take() end
  return entry
end
local function append(key, bound, entry)
  if bound then
    redis.call('XADD', key, 'MAXLEN', '~', bound, '*', unpack(entry))
  else
    redis.call('XADD', key, '*', unpack(entry))
  end
end
for _ = 1, intents do
  local stream, history = tonumber(take()), tonumber(take())
  local entry = take_entry()
  -- Trade intents are the consumers' stream: how long it may grow is theirs to say.
  append(KEYS[stream], (ARGV[3] == '0' or stream == 8) and ARGV[15], entry)
  redis.call('LPUSH', KEYS[4], now)
  if history > 0 then
    local key = KEYS[first_history + history - 1]
    redis.call('ZADD', key, now / 1000, entry[4])
    redis.call('ZREMRANGEBYRANK', key, 0, -HISTORY - 1)
    redis.call('EXPIRE', key, HISTORY_SECONDS)
  end
end
if intents > 0 then
  redis.call('LTRIM', KEYS[4], 0, ARGV[12] - 1)
  redis.call('PEXPIRE', KEYS[4], MINUTE_MS)
end
for _ = 1, letters do
  append(KEYS[6], ARGV[15], take_entry())
end
return {'ok', now}
