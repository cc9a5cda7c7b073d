#!/bin/sh
# Start an engine and a proxy on this machine, transcribe a recording through them, hear one as it is said, show what was verified.
set -eu
cd "$(dirname "$0")/.."
logs=$(mktemp -d)
engine= proxy=
trap 'kill $engine $proxy 2>/dev/null; wait 2>/dev/null; rm -rf "$logs"' EXIT

if python examples/weights.py whisper-base; then
    model=whisper-base weights=.weights/whisper-base recording=examples/kennedy.flac
else
    echo "The demo goes on with the small checkpoint of our tests, which knows about forty English words and nothing else."
    model=nano weights=tests/checkpoints/nano/ct2 recording=examples/hello.wav
fi
echo

sottovoce-engine serve --insecure-evidence --model $model=$weights --alias whisper-1=$model 2>"$logs/engine" &
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

echo "\$ sottovoce transcribe $recording"
sottovoce transcribe $recording
echo
echo "\$ sottovoce live examples/hello.wav --pace"
sottovoce live examples/hello.wav --pace
echo
echo "\$ sottovoce status"
sottovoce status
echo
echo "Both are stopped now. README's \"Run it\" starts them to stay, with a page at http://127.0.0.1:8080/ that hears a microphone."
