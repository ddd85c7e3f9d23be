-- Embedding load for wrk: one text of 18 words a request, and the batch sizes the sidecar made of them.
--
--   wrk -t 1 -c 1 -d 30s -s scripts/wrk-embed.lua http://localhost:8080/api/v1/embed     (low load: batches of one)
--   wrk -t 8 -c 64 -d 60s -s scripts/wrk-embed.lua http://localhost:8080/api/v1/embed    (high load: larger batches)
--   ... http://localhost:8080/api/v1/embed -- MODEL APP                                  (both optional)
--
-- Enters: wrk's options. Leaves: statuses, latency percentiles, QPS and batch sizes, below wrk's own summary. Never: a request that is
-- not an embedding of that one length.
--
-- Batch sizes are the growth of `akidb_batch_size` on the same server's /metrics over the run. wrk's Lua has no HTTP client of its own, so
-- /metrics is read with `curl`, once before the first request and once after the last; without curl or metrics the run goes on, and the
-- last line says that batch sizes are unknown. wrk is a closed loop: while the server stalls it sends nothing, so its percentiles hide
-- what a stall does; `akidb-loadtest run --rate` shows it.

local WORDS = 18

local vocabulary = {}
for word in ([[the of and to in is was for on are with as at be this have from or had by word but what some we can out other were
  all there when up use your how said each she which their time will way about many then them write would like so these her long
  make thing see him two has look more day could go come did number sound no most people my over know water than call first who may
  down side been now find any new work part take get place made live where after back little only round man year came show every
  good me give our under name very through just form sentence great think say help low line differ turn cause much mean before move]])
  :gmatch("%a+") do
  vocabulary[#vocabulary + 1] = word
end

-- In wrk's main state: once a thread, before any request.

local threads = {}
local before, why_unknown

local function read_metrics()
  local url = string.format("%s://%s:%s/metrics", wrk.scheme, wrk.host:find(":") and "[" .. wrk.host .. "]" or wrk.host, wrk.port or 80)
  if url:find("[^%w%.%-:/_%[%]]") then
    return nil, "the host's name has characters that a shell could misread"
  end
  local pipe = io.popen("curl --silent --fail --globoff --max-time 10 '" .. url .. "'", "r")
  local text = pipe and pipe:read("*a") or ""
  if pipe then
    pipe:close()
  end
  local sizes, texts, found = {}, 0, false
  for labels, count in text:gmatch("akidb_batch_size_bucket{([^\n]-)} ([^%s]+)") do
    local le = labels:match('le="([^"]+)"')
    if le then
      sizes[le] = (sizes[le] or 0) + tonumber(count)
      found = true
    end
  end
  for sum in text:gmatch("akidb_batch_size_sum[^%s]* ([^%s]+)") do
    texts = texts + tonumber(sum)
  end
  if not found then
    return nil, "no akidb_batch_size at " .. url .. " (is curl installed?)"
  end
  return { sizes = sizes, texts = texts }
end

function setup(thread)
  if #threads == 0 then
    before, why_unknown = read_metrics()
  end
  threads[#threads + 1] = thread
  thread:set("number", #threads)
end

-- In each thread's own state.

local model, app

function init(args)
  math.randomseed(number)
  model, app = args[1], args[2]
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  if app then
    wrk.headers["X-Akidb-App"] = app
  end
  ok, refused, retry_after, unavailable, late, other = 0, 0, 0, 0, 0, 0
end

function request()
  local text = {}
  for i = 1, WORDS do
    text[i] = vocabulary[math.random(#vocabulary)]
  end
  local body = '{"text": "' .. table.concat(text, " ") .. '"'
  if model then
    body = body .. ', "model": "' .. model:gsub('[%c"\\]', "") .. '"'
  end
  return wrk.format(nil, nil, nil, body .. "}")
end

function response(status, headers)
  if status == 200 then
    ok = ok + 1
    return
  end
  if status == 429 then
    refused = refused + 1
  elseif status == 503 then
    unavailable = unavailable + 1
  elseif status == 504 then
    late = late + 1
  else
    other = other + 1
  end
  for name in pairs(headers) do
    if name:lower() == "retry-after" then
      retry_after = retry_after + 1
    end
  end
end

-- In the main state again, after the last answer.

local function print_batches(after)
  local bounds, all = {}, 0
  for le, count in pairs(after.sizes) do
    local grown = count - (before.sizes[le] or 0)
    bounds[#bounds + 1] = { le = le == "+Inf" and math.huge or tonumber(le), grown = grown }
    all = math.max(all, grown)
  end
  table.sort(bounds, function(a, b)
    return a.le < b.le
  end)
  if all <= 0 then
    print("batch sizes       unknown: no batch was counted during the run")
    return
  end
  print(string.format("batches           %d, %.1f texts on average", all, (after.texts - before.texts) / all))
  print("batch sizes       texts  batches   share")
  local below, counted = 0, 0
  for _, bound in ipairs(bounds) do
    local here = bound.grown - counted
    if here > 0 then
      local range = bound.le == math.huge and ">" .. below
        or (bound.le - below <= 1) and tostring(bound.le)
        or string.format("%d-%d", below + 1, bound.le)
      print(string.format("              %9s %8d %6.1f%%", range, here, 100 * here / all))
    end
    below, counted = bound.le, bound.grown
  end
end

function done(summary, latency, _)
  local sums = { ok = 0, refused = 0, retry_after = 0, unavailable = 0, late = 0, other = 0 }
  for _, thread in ipairs(threads) do
    for name in pairs(sums) do
      sums[name] = sums[name] + (thread:get(name) or 0)
    end
  end
  local errors, seconds = summary.errors, summary.duration / 1e6
  print("-- embedding, " .. WORDS .. " words a text --")
  print(string.format("200               %d, QPS %.1f", sums.ok, sums.ok / seconds))
  print(
    string.format(
      "not 200           429: %d, 503: %d, 504: %d, other: %d; with retry-after: %d",
      sums.refused, sums.unavailable, sums.late, sums.other, sums.retry_after
    )
  )
  print(
    string.format(
      "socket errors     connect: %d, read: %d, write: %d, timeout: %d", errors.connect, errors.read, errors.write, errors.timeout
    )
  )
  print(
    string.format(
      "latency           p50 %.2f  p90 %.2f  p95 %.2f  p99 %.2f  max %.2f ms (of every answer)%s",
      latency:percentile(50) / 1e3, latency:percentile(90) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3,
      latency.max / 1e3, summary.requests < 1000 and "; p99 of FEW: under 1,000 answers" or ""
    )
  )
  local after, why
  if before then
    after, why = read_metrics()
  end
  if after then
    print_batches(after)
  else
    print("batch sizes       unknown: " .. (why or why_unknown))
  end
end
