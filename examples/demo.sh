#!/bin/sh
# Start an engine and a proxy on this machine, transcribe a recording through them, show what was verified.
set -eu
cd "$(dirname "$0")/.."
logs=$(mktemp -d)
trap 'kill $engine $proxy 2>/dev/null; wait 2>/dev/null; rm -rf "$logs"' EXIT

sottovoce-engine serve --insecure-evidence --model nano=tests/checkpoints/nano/ct2 --alias whisper-1=nano 2>"$logs/engine" &
engine=$!
sottovoce proxy --engine http://127.0.0.1:8800 --policy examples/insecure-policy.toml 2>"$logs/proxy" &
proxy=$!

tries=0
until sottovoce status >/dev/null 2>&1; do
    tries=$((tries + 1))
    if [ $tries -gt 120 ] || ! kill -0 $engine 2>/dev/null || ! kill -0 $proxy 2>/dev/null; then
        cat "$logs/engine" "$logs/proxy" >&2
        exit 1
    fi
    sleep 0.5
done

echo "\$ sottovoce transcribe examples/hello.wav"
sottovoce transcribe examples/hello.wav
echo
echo "\$ sottovoce status"
sottovoce status
