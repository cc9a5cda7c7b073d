"""The attested channel: chunked Oblivious HTTP, without a single read or write.

An HTTP message becomes bytes (`bhttp`), is padded (`padding`), cut into chunks and sealed (`ohttp`) with keys that
come from HPKE (`hpke`) and are announced in key configs (`keyconfig`)::

    proxy                                                  engine
    encoder = RequestEncoder()                             opener = RequestOpener(keys)
    sealer = RequestSealer(config)                         decoder = RequestDecoder()
    send(sealer.header)
    send(sealer.seal(encoder.head(head)))                  for chunk in opener.feed(received):
    send(sealer.seal(encoder.content(data)))                   events += decoder.feed(chunk)
    send(sealer.seal_final(encoder.end()))                 events += decoder.feed(opener.finish())
                                                           events += decoder.finish()

    opener = sealer.response_opener()                      sealer = opener.response_sealer(os.urandom(n))
    decoder = ResponseDecoder()                            encoder = ResponseEncoder()

Every object is one message in one direction. Bytes go in, in pieces of any size; bytes or events come out.

A live session is sealed frames of one size each way (`live`), which hold records (`records`) and leave at a pace of
their own (`pacing`).

* What `feed` returns is authentic, in order and unabridged so far. That it was all is known only when `finish`
  has returned, on the opener and on the decoder.
* ChannelError means that the message is lost, and the object with it: it raises again at every call.
  KeyMismatchError means that it was sealed to a key we do not hold. ValueError and RuntimeError are bugs.
* Randomness is drawn for key pairs only. The response nonce, the time, what was seen before (replay), and how
  much to accept in all are the caller's.

Import from the modules: each answers one question, and its docstring draws the format.
"""
