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

# Ports that are free: whatever else runs here stays, and is not taken for the demo.
free="--listen 127.0.0.1:0 --status-listen 127.0.0.1:0 --log-format json"

said() { # PROGRAM NAME: what its log says of where it listens
    sed -nE "s/.*\"$2\": \[?\"([^\"]*)\".*/\1/p" "$logs/$1" | head -n 1
}
until_so() { # COMMAND...: wait until it succeeds, for as long as both run
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ $tries -gt 120 ] || ! kill -0 $engine 2>/dev/null || ! kill -0 ${proxy:-$engine} 2>/dev/null; then
            cat "$logs"/* >&2
            exit 1
        fi
        sleep 0.5
    done
}
listens() { # PROGRAM
    [ -n "$(said "$1" status_address)" ]
}

sottovoce-engine serve --insecure-evidence --model $model=$weights --alias whisper-1=$model $free 2>"$logs/engine" &
engine=$!
until_so listens engine
sottovoce proxy --engine "http://$(said engine address)" --policy examples/insecure-policy.toml $free 2>"$logs/proxy" &
proxy=$!
until_so listens proxy
export SOTTOVOCE_URL="http://$(said proxy addresses)" SOTTOVOCE_STATUS_URL="http://$(said proxy status_address)"
until_so sottovoce status

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
