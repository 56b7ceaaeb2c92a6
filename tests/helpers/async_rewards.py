"""Async reward functions that use objects bound to an event loop; each returns the length of the completion."""

import asyncio

_semaphore = asyncio.Semaphore(1)
_lock = asyncio.Lock()
_queue = asyncio.Queue()
_worker = None
_loop = asyncio.get_event_loop()


async def _lengths(completions, guard):
    async def length(completion):
        async with guard:  # both wait for it: only who waits binds it to a loop
            await asyncio.sleep(0.001)
            return float(len(completion))

    return (await asyncio.gather(*map(length, [*completions, "another"])))[:-1]


async def semaphore(completions, **_):
    return await _lengths(completions, _semaphore)


async def lock(completions, **_):
    return await _lengths(completions, _lock)


async def _serve():
    while True:
        completion, answer = await _queue.get()
        answer.set_result(float(len(completion)))


async def queue(completions, **_):
    """A worker that is started once: without its loop, nobody would ever answer."""
    global _worker
    _worker = _worker or asyncio.create_task(_serve())
    answers = [asyncio.get_running_loop().create_future() for _ in completions]
    for pair in zip(completions, answers, strict=True):
        await _queue.put(pair)
    return [await answer for answer in answers]


async def loop_of_the_import(completions, **_):
    assert asyncio.get_running_loop() is _loop
    return [float(len(completion)) for completion in completions]
