#!/bin/sh
# Fills corpus/ from the examples' files and from seeds/. Repeating it changes nothing.
set -eu
cd "$(dirname "$0")"
for target in config events expression line message pattern record row schedule token; do mkdir -p "corpus/$target"; done

cp ../broker.toml corpus/config/seed-root
for file in ../examples/*/broker.toml; do
    cp "$file" "corpus/config/seed-$(basename "$(dirname "$file")")"
done

# The file of the tests that has every key.
sed -n '/^const FULL: /,/^"#;/p' ../host/core/src/config/tests.rs | sed '1d;$d' > corpus/config/seed-full

# Events: each line of an example's sample as the data of an event, and the first few as a batch.
event='{"specversion":"1.0","id":"1","source":"/seed","type":"t","subject":"s","time":"2026-01-31T12:00:00Z","n":7,"data":'
number=0
cat ../examples/github-webhooks/events.jsonl ../examples/orders/orders.jsonl | while IFS= read -r line; do
    number=$((number + 1))
    printf '%s%s}' "$event" "$line" > "corpus/events/seed-$number"
done
printf '[%s1},%s"x","datacontenttype":"text/plain"}]' "$event" "$event" > corpus/events/seed-batch
printf '{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"AAEC"}' > corpus/events/seed-base64

# Lines: an event in a queue, as it was accepted, and as it died.
sed -n '1,4p' ../examples/orders/orders.jsonl | while IFS= read -r line; do
    number=$((${number:-0} + 1))
    printf '{"queue":"q","topic":"orders.created","message":%s%s}}' "$event" "$line" > "corpus/line/seed-$number"
done
printf '%s' '{"queue":"q.dead","topic":"a.b","accepted":"2026-01-01T00:00:00.001Z","due":"2026-01-01T00:00:00.005Z","chosen":true,"expires":"2026-01-02T00:00:00Z","priority":9,"key":"k","hops":2,"attempts":3,"alone":true,"dead":{"origin":"q","at":"2026-01-01T00:00:00.003Z","code":"rejected","detail":"no\nway"},"history":[{"number":1,"at":"2026-01-01T00:00:00.002Z","outcome":"trap","reason":"it panicked","duration_us":17,"digest":"ab","log_tail":"line\n"}],"message":{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"AAEC"}}' > corpus/line/seed-dead

# Expressions: each over a few payloads.
payloads=$(sed -n 's/.*"payload":\(.*\)}$/\1/p' ../examples/github-webhooks/events.jsonl | head -n 3)
while IFS= read -r expression; do
    printf '%s\n' "$payloads" | while IFS= read -r payload; do
        name=$(printf '%s%s' "$expression" "$payload" | cksum | cut -d ' ' -f 1)
        printf '%s\0%s' "$expression" "$payload" > "corpus/expression/seed-$name"
    done
    name=$(printf '%s' "$expression" | cksum | cut -d ' ' -f 1)
    printf '%s\0{"canary":["canary",1,2.5,null,{"a":"canary"}]}' "$expression" > "corpus/expression/seed-canary-$name"
done < seeds/expressions.txt

# Schedules: a line each, its parts on lines of their own.
while IFS= read -r schedule; do
    name=$(printf '%s' "$schedule" | cksum | cut -d ' ' -f 1)
    printf '%s' "$schedule" | tr '|' '\n' > "corpus/schedule/seed-$name"
done < seeds/schedules.txt

# Records: the JSON of a queue and of an attempt; the target puts version and checksum around it.
printf '%s' '{"id":4,"declared":true,"paused":true,"dead_letter":5,"settings":{"max-attempts":5,"max-age-ms":null,"backoff-initial-ms":1000,"backoff-factor":2.0,"backoff-max-ms":300000,"backoff-jitter":0.2,"order-by-key":true,"priority":false,"max-messages":7,"max-bytes":null,"overflow":"drop-oldest","expired-dropped":false},"ranked":true}' > corpus/record/seed-queue
printf '%s' '{"number":2,"at_ms":1000,"outcome":"trap","reason":"it panicked","duration_us":17,"digest":"ab","log_tail":"line\n"}' > corpus/record/seed-attempt
