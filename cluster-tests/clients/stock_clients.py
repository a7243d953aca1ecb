"""Asks every node of a cluster what its users would, with the stock clients `ollama` and `openai`.

    python stock_clients.py MODEL HOLDERS URL...

MODEL is a chat model, HOLDERS the names of the nodes that have it (separated by commas), each URL a node. Whichever
node is asked, the answers must be whole, well-formed, and at temperature 0 the same. Ends with exit code 0 when all of
that held; else with the traceback of the first thing that did not.
"""

import math
import platform
import sys
import time
from importlib.metadata import version

import ollama
import openai

QUESTION = [{"role": "user", "content": "What is OllamaMax?"}]
PROMPT = QUESTION[0]["content"]
TEXTS = ["three machines answer as one", "a node fails"]
NO_MODEL = "no-such-model"
# More than the model says, and few enough to cut it off.
AMPLE, FEW = 200, 3
SECONDS = 60


def main():
    model, holders, urls = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]
    print(f"ollama {version('ollama')}, openai {version('openai')}, Python {platform.python_version()}")
    answers = [ask(url, model, holders) for url in urls]
    (texts, vectors), *others = answers
    for url, (other_texts, other_vectors) in zip(urls[1:], others):
        assert other_texts == texts, f"{url} says {other_texts}, and {urls[0]} says {texts}"
        assert same(other_vectors, vectors), f"{url} and {urls[0]} give different vectors"
    print(f"{len(urls)} nodes said the same: {texts[0]!r}")


def ask(url, model, holders):
    print(url, flush=True)
    client = ollama.Client(host=url, timeout=SECONDS)
    check_lists(client, model)
    texts = [check_chat(client, model), check_generate(client, model)]
    vectors = check_embed(client, model)
    check_loaded(client, model)
    check_errors(client)

    # One attempt: a client that tries again would hide what went wrong.
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", timeout=SECONDS, max_retries=0)
    check_models(client, model)
    texts.append(check_completions(client, model, holders))
    assert same(vectors, check_embeddings(client, model)), f"{url}: the two protocols give different vectors"
    check_not_found(client)
    return texts, vectors


# --- ollama ---------------------------------------------------------------------------------------------------------


def check_lists(client, model):
    listed = {entry.model: entry for entry in client.list().models}
    entry = listed.get(f"{model}:latest")
    assert entry, f"{model} is not among {sorted(listed)}"
    assert len(entry.digest) == 64 and entry.size > 0 and entry.modified_at.year >= 2024, entry
    assert entry.details.format == "gguf" and entry.details.family, entry

    shown = client.show(model)
    # Only `show` tells the file that a model was made from.
    details = shown.details.model_copy(update={"parent_model": entry.details.parent_model})
    assert details == entry.details, f"{shown.details} is not {entry.details}"
    assert "completion" in shown.capabilities and shown.template, shown
    assert shown.modelinfo["general.architecture"] == entry.details.family, shown.modelinfo


def check_chat(client, model):
    def chat(limit, stream=False):
        return client.chat(model, QUESTION, stream=stream, options={"temperature": 0, "num_predict": limit})

    whole = chat(AMPLE)
    assert whole.message.role == "assistant" and whole.message.content.strip(), whole
    check_end(whole, "stop")

    pieces = list(chat(AMPLE, stream=True))
    assert len(pieces) > 2, f"the stream came in {len(pieces)} pieces"
    assert not any(piece.done for piece in pieces[:-1]), "only the last piece is the end"
    assert "".join(piece.message.content for piece in pieces) == whole.message.content
    check_end(pieces[-1], "stop")
    assert pieces[-1].eval_count == whole.eval_count, (pieces[-1], whole)

    cut = chat(FEW)
    assert whole.message.content.startswith(cut.message.content), (cut, whole)
    check_end(cut, "length")
    assert cut.eval_count == FEW, cut
    return whole.message.content


def check_generate(client, model):
    options = {"temperature": 0, "num_predict": AMPLE}
    whole = client.generate(model, PROMPT, options=options)
    assert whole.response.strip() and whole.context, whole
    check_end(whole, "stop")
    pieces = list(client.generate(model, PROMPT, stream=True, options=options))
    assert "".join(piece.response for piece in pieces) == whole.response
    check_end(pieces[-1], "stop")
    return whole.response


def check_end(answer, reason):
    assert answer.done and answer.done_reason == reason, answer
    assert answer.prompt_eval_count > 0 and answer.eval_count > 0, answer
    assert answer.total_duration >= answer.eval_duration > 0, answer


def check_embed(client, model):
    width = next(value for key, value in client.show(model).modelinfo.items() if key.endswith(".embedding_length"))
    answer = client.embed(model, TEXTS)
    check_vectors(answer.embeddings, width)
    assert answer.prompt_eval_count > 0, answer
    (alone,) = client.embed(model, TEXTS[0]).embeddings
    assert list(alone) == list(answer.embeddings[0]), "one text alone has the same vector as among others"
    return [list(vector) for vector in answer.embeddings]


def check_loaded(client, model):
    """Nodes ask their runtimes from time to time what is in memory, so this may take a moment to be known."""
    deadline = time.monotonic() + SECONDS
    while f"{model}:latest" not in (loaded := [entry.model for entry in client.ps().models]):
        assert time.monotonic() < deadline, f"it has answered, and is not among {loaded}"
        time.sleep(0.1)


def check_errors(client):
    ask = {
        "show": lambda: client.show(NO_MODEL),
        "chat": lambda: client.chat(NO_MODEL, QUESTION),
        "stream": lambda: next(client.chat(NO_MODEL, QUESTION, stream=True)),
        "generate": lambda: client.generate(NO_MODEL, PROMPT),
        "embed": lambda: client.embed(NO_MODEL, TEXTS),
    }
    for name, call in ask.items():
        error = error_of(call, ollama.ResponseError, name)
        assert error.status_code == 404, f"{name}: {error}"
        assert NO_MODEL in error.error and "not found" in error.error, f"{name}: {error}"


# --- openai ---------------------------------------------------------------------------------------------------------


def check_models(client, model):
    models = {entry.id: entry for entry in client.models.list()}
    entry = models.get(f"{model}:latest")
    assert entry, f"{model} is not among {sorted(models)}"
    assert entry.object == "model" and entry.created > 0 and entry.owned_by, entry


def check_completions(client, model, holders):
    def complete(limit, **more):
        completions = client.chat.completions.with_raw_response
        raw = completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=limit, **more)
        node = raw.headers["x-ollamamax-node"]
        assert node in holders, f"{node} answered, which does not have the model"
        return raw.parse()

    whole = complete(AMPLE)
    (choice,) = whole.choices
    assert choice.message.role == "assistant" and choice.message.content.strip(), whole
    assert choice.finish_reason == "stop", whole
    check_usage(whole.usage)

    *chunks, last = complete(AMPLE, stream=True, stream_options={"include_usage": True})
    assert len(chunks) > 2, f"the stream came in {len(chunks)} pieces"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == choice.message.content, f"{text!r} is not {choice.message.content!r}"
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons[-1] == "stop" and not any(reasons[:-1]), reasons
    assert last.choices == [] and last.usage == whole.usage, f"{last} is not the usage {whole.usage}"

    cut = complete(FEW)
    assert cut.choices[0].finish_reason == "length" and cut.usage.completion_tokens == FEW, cut
    return choice.message.content


def check_usage(usage):
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage


def check_embeddings(client, model):
    # The client asks for base64 unless it is told otherwise, and takes that apart by itself.
    packed = client.embeddings.create(model=model, input=TEXTS)
    plain = client.embeddings.create(model=model, input=TEXTS, encoding_format="float")
    assert [entry.index for entry in packed.data] == [0, 1], packed
    vectors = [entry.embedding for entry in packed.data]
    check_vectors(vectors, len(plain.data[0].embedding))
    assert same(vectors, [entry.embedding for entry in plain.data]), "base64 and numbers are the same vectors"
    assert packed.usage.total_tokens == packed.usage.prompt_tokens > 0, packed.usage
    return vectors


def check_not_found(client):
    ask = {
        "completions": lambda: client.chat.completions.create(model=NO_MODEL, messages=QUESTION),
        "stream": lambda: client.chat.completions.create(model=NO_MODEL, messages=QUESTION, stream=True),
        "embeddings": lambda: client.embeddings.create(model=NO_MODEL, input=TEXTS),
    }
    for name, call in ask.items():
        error = error_of(call, openai.NotFoundError, name)
        assert error.status_code == 404 and error.type == "not_found_error", f"{name}: {error.body}"
        assert NO_MODEL in error.message and "not found" in error.message, f"{name}: {error.message}"


# --- both -----------------------------------------------------------------------------------------------------------


def error_of(call, kind, name):
    try:
        answer = call()
    except kind as error:
        return error
    raise AssertionError(f"{name}: expected {kind.__name__}, was answered {answer}")


def check_vectors(vectors, width):
    assert len(vectors) == len(TEXTS), f"{len(vectors)} vectors for {len(TEXTS)} texts"
    for vector in vectors:
        assert len(vector) == width, f"{len(vector)} numbers instead of {width}"
        assert math.isclose(math.hypot(*vector), 1, abs_tol=1e-4), f"length {math.hypot(*vector)}"
    assert not same(vectors[:1], vectors[1:]), "different texts have different vectors"


def same(vectors, others):
    pairs = [pair for vector, other in zip(vectors, others, strict=True) for pair in zip(vector, other, strict=True)]
    return all(math.isclose(one, other, abs_tol=1e-6) for one, other in pairs)


if __name__ == "__main__":
    main()
