-- The scripts of the state machine. The loader puts _prelude.lua in front of each of them.
std = {
  read_globals = {
    "KEYS", "ARGV", "redis", "ipairs", "tonumber", "tostring", "type",
    math = { fields = { "floor", "min", "max" } },
    string = { fields = { "byte", "find", "format", "match", "sub" } },
  },
}
max_line_length = 100

local prelude = {
  "base", "now", "go_on_without_memory", "sub_key", "count", "wake", "event", "enter_ready",
  "leave_ready", "count_in_hand", "put_back", "end_submission", "count_dropped",
  "end_reservation", "use_attempt", "begin_repair", "reset_reservations", "is_nogroup",
  "pending_of", "take_sweep", "remove_worker",
}
files["opsqueue/lua"].read_globals = prelude
-- Each is used by some script, which this file alone can't show.
files["opsqueue/lua/_prelude.lua"].ignore = { "211" }
