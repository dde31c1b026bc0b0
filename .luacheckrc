-- The scripts of the state machine. The loader puts _prelude, _index and _chunk in front of each
-- of them, and others behind these where a script says so.
std = {
  read_globals = {
    "KEYS", "ARGV", "redis", "ipairs", "next", "pairs", "tonumber", "tostring", "type", "unpack",
    cjson = { fields = { "decode" } },
    math = { fields = { "abs", "ceil", "floor", "min", "max" } },
    string = { fields = { "byte", "find", "format", "gsub", "match", "rep", "sub" } },
    table = { fields = { "concat", "insert", "sort" } },
  },
}
max_line_length = 100

local prelude = {
  "base", "now", "go_on_without_memory", "is_own_prefix", "sub_key", "count", "wake", "event",
  "complement", "sortable",
  "table_in", "firsts", "lasts", "sizes", "first_of", "last_of", "size_of", "change_set",
  "in_hand", "in_hand_changes", "unwritten", "unscored",
  "in_hand_of", "learn_in_hand", "change_groups", "enter_ready", "leave_ready", "note_in_hand",
  "score_groups", "write_in_hand", "count_in_hand", "change_pairs",
  "sign", "put_back", "tell_watchers", "DEFAULT_RETENTION_MS", "end_submission",
  "fail_past_limit",  "count_recent", "token_of", "entry_of", "end_reservation", "use_attempt",
  "is_reservation", "lost_now", "note_lost", "acknowledge_lost", "free_unheld",
  "begin_repair", "reset_reservations", "is_nogroup", "pending_of", "take_sweep",
  "note_sign_of_life", "remove_worker",
}
files["opsqueue/queue/lua"].read_globals = prelude
local ready = { "ready_sets", "best_of" }
local order = {
  "ready_sets", "best_of", "in_hand_lacking", "split_label",
  "least_busy", "better", "pick_distinct", "pick_by_value", "pick_by_first",
}
files["opsqueue/queue/lua/_order.lua"].read_globals = ready
files["opsqueue/queue/lua/_order.lua"].globals = { "firsts", "lasts", "taken" }
files["opsqueue/queue/lua/_basic.lua"].read_globals = ready
files["opsqueue/queue/lua/_ordered.lua"].read_globals = order
local limit = {
  "limit_of", "bucket_of", "soonest_of", "passes", "value_of", "take_tokens", "write_all_paces",
}
files["opsqueue/queue/lua/_limit.lua"].read_globals = order
files["opsqueue/queue/lua/_limit.lua"].globals = { "known_pairs" }
local candidate = { "LOOK", "make_comparison" }
local function joined(...)
  local names = {}
  for _, list in ipairs { ... } do
    for _, name in ipairs(list) do
      table.insert(names, name)
    end
  end
  return names
end
files["opsqueue/queue/lua/_candidate.lua"].read_globals = joined(order, limit)
files["opsqueue/queue/lua/_strategy.lua"].read_globals = joined(order, limit, candidate)
files["opsqueue/queue/lua/_strategy.lua"].globals = { "is_blocked" }
files["opsqueue/queue/lua/reserve_chunks.lua"].read_globals = {
  "pick", "take_tokens", "write_all_paces", "next_allowed", "is_blocked",
  "free_due_chunks", "read_submission", "deliver", "last_suspect",
}
files["opsqueue/queue/lua/reserve_chunks.lua"].globals = { "taken" }
files["opsqueue/queue/lua/repair.lua"].read_globals = { "look_at_submissions" }
files["opsqueue/queue/lua/repair.lua"].globals = { "walk" }
files["opsqueue/queue/lua/complete_chunks.lua"].read_globals = { "end_reservations" }
for _, name in ipairs { "list_submissions", "lookup_submissions" } do
  files["opsqueue/queue/lua/" .. name .. ".lua"].read_globals = {
    "sets_of_pairs", "smallest_of", "is_in_all",
  }
end
for _, name in ipairs { "insert_submission", "restore_submission" } do
  files["opsqueue/queue/lua/" .. name .. ".lua"].read_globals = {
    "next_id", "add_submission", "offer",
  }
end
-- Each is used by some script, which these files alone can't show.
for _, name in ipairs {
  "_prelude", "_index", "_chunk", "_insert", "_find", "_handout", "_reported", "_ready", "_basic",
  "_order", "_ordered",  "_limit", "_candidate", "_strategy", "_history",
  "_walk",
} do
  files["opsqueue/queue/lua/" .. name .. ".lua"].ignore = { "211", "231" }
end
