"""Extraction on SmolLM2-135M-Instruct: against a plain re-statement of the method, and killed, resumed, shared."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import emobake
from emobake.measure import queries as q
from emobake.models.loading import Runtime
from emobake.models.sampling import Sampling

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from emobake.measure.extraction import extract  # noqa: E402

pytestmark = pytest.mark.real

ASKED = {
    "joy": ["Your sister comes home tonight. What do you say?", "How was the picnic?", "Tell me about the puppy."],
    "fear": ["What was that noise in the cellar?", "The lift has stopped between two floors. What now?"],
    "Nostalgia": ["What did your grandmother's kitchen smell of?"],
}
TOKENS = 10
GREEDY = Sampling(TOKENS, temperature=0)
RUNTIME = {field.name for field in fields(Runtime)}


@pytest.fixture(scope="module")
def queries_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("queries") / "queries.json"
    file.write_text(json.dumps(ASKED))
    return file


@pytest.fixture(scope="module")
def asked(queries_file):
    content = queries_file.read_bytes()
    return q.ask(q.parse_queries(content, "queries.json"), content, "queries.json")


@pytest.fixture(scope="module")
def whole(smollm2, asked, tmp_path_factory):
    """One undisturbed extraction: the file, and its recorded answers."""
    folder = tmp_path_factory.mktemp("whole")
    file, answers = folder / "v.safetensors", folder / "answers.jsonl"
    run(smollm2, file, asked, save_answers=answers)
    return file, answers


def run(model, out, asked, **options):
    runtime = Runtime(**({"batch_size": 2} | {key: options.pop(key) for key in RUNTIME & options.keys()}))
    return extract(model, out, asked, sampling=GREEDY, runtime=runtime, **options)


def rows(file):
    return emobake.open_vectors(file).rows


def relative(found, wanted):
    return (np.linalg.norm(found - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)).max()


def command(model, queries_file, out, *more):
    words = ["vectors", "extract", "--model", model, "--queries", queries_file, "--out", out]
    return [*map(str, [*words, "--max-new-tokens", TOKENS, "--batch-size", 2, *more])]


def plain_extraction(folder):
    """The method, one query at a time: no batch, no padding, no cache, all activations kept, greedy by hand."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ends = {model.generation_config.eos_token_id}
    seen = [None] * 30
    for i, layer in enumerate(model.model.layers):
        layer.self_attn.register_forward_hook(lambda _m, _a, output, i=i: seen.__setitem__(i, output[0][0].clone()))

    @torch.inference_mode()
    def mean(text):
        messages = [{"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        answer = []
        while len(answer) < TOKENS:
            token = int(model(torch.tensor([prompt + answer]), use_cache=False).logits[0, -1].argmax())
            if token in ends:
                break
            answer.append(token)
        model(torch.tensor([prompt + answer]), use_cache=False)
        return np.stack([output[len(prompt) :].double().mean(dim=0).numpy() for output in seen])

    vectors = {}
    for name, texts in ASKED.items():
        emotion = name.lower()
        differences = [
            mean(q.EMOTIONAL.replace("{emotion}", emotion).replace("{query}", text))
            - mean(q.NEUTRAL.replace("{query}", text))
            for text in texts
        ]
        vectors[emotion] = np.mean(differences, axis=0)
    return vectors


def test_equals_a_plain_loop(whole, smollm2):
    found, wanted = emobake.open_vectors(whole[0]), plain_extraction(smollm2)
    assert found.emotions == ("fear", "joy", "nostalgia")
    for emotion, table in zip(found.emotions, found.rows, strict=True):
        assert relative(table, wanted[emotion]) <= 1e-4
    assert {e: s.count for e, s in found.statistics.items()} == {"fear": 2, "joy": 3}
    assert found.extraction["max_new_tokens"] == TOKENS
    assert (found.site, found.extraction["model"]) == ("attention_output", "llama")


def test_twice_gives_the_same_file_and_another_batch_size_the_same_vectors(whole, smollm2, asked, tmp_path):
    run(smollm2, tmp_path / "again.safetensors", asked)
    assert (tmp_path / "again.safetensors").read_bytes() == whole[0].read_bytes()
    for size in (1, 6):
        run(smollm2, tmp_path / f"{size}.safetensors", asked, batch_size=size)
        assert relative(rows(tmp_path / f"{size}.safetensors"), rows(whole[0])) <= 1e-4
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".safetensors"] * 3, "no .partial is left"


def test_recorded_answers_give_the_same_vectors_without_generating(whole, smollm2, tmp_path, monkeypatch):
    file, answers = whole
    recorded = [json.loads(line) for line in answers.read_text().split("\n") if line]
    assert [(r["emotion"], r["query"]) for r in recorded] == [(e.lower(), t) for e, ts in ASKED.items() for t in ts]
    assert all(0 < len(r["emotional_tokens"]) <= TOKENS for r in recorded)
    monkeypatch.setattr("emobake.measure.extraction.generate_means", None)
    run(smollm2, tmp_path / "v.safetensors", q.parse_answers(answers.read_bytes(), "answers.jsonl"))
    assert relative(rows(tmp_path / "v.safetensors"), rows(file)) <= 1e-4


def test_other_ways_to_run_the_model_measure_the_same_answers_alike(whole, smollm2, tmp_path):
    file, answers = whole
    recorded = q.parse_answers(answers.read_bytes(), "answers.jsonl")
    run(smollm2, tmp_path / "map.safetensors", recorded, device_map="auto")
    assert relative(rows(tmp_path / "map.safetensors"), rows(file)) <= 1e-4
    run(smollm2, tmp_path / "half.safetensors", recorded, dtype="bfloat16")
    half, full = rows(tmp_path / "half.safetensors"), rows(file)
    cosines = (half * full).sum(axis=-1) / np.linalg.norm(half, axis=-1) / np.linalg.norm(full, axis=-1)
    assert relative(half, full) > 0 and cosines.min() > 0.95
    assert emobake.open_vectors(tmp_path / "half.safetensors").extraction["dtype"] == "bfloat16"


def test_sampling_depends_on_the_seed_and_not_on_the_batch(smollm2, asked, tmp_path):
    def texts(seed, size):
        answers = tmp_path / f"{seed}-{size}.jsonl"
        sampling = Sampling(6, temperature=1.0, top_p=0.95, seed=seed)
        runtime, out = Runtime(batch_size=size), answers.with_suffix(".safetensors")
        extract(smollm2, out, asked.limited(1), sampling=sampling, runtime=runtime, save_answers=answers)
        return answers.read_text()

    assert texts(1, 3) == texts(1, 2) != texts(2, 3)


def test_a_killed_extraction_goes_on_where_it_was(whole, smollm2, queries_file, asked, tmp_path):
    out = tmp_path / "v.safetensors"
    state = tmp_path / "v.safetensors.partial" / "sums-0.safetensors"
    process = subprocess.Popen([sys.executable, "-m", "emobake", *command(smollm2, queries_file, out)])
    deadline = time.monotonic() + 120
    while not state.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists(), "killed too late to prove anything"
    begun = []
    run(smollm2, out, asked, progress=lambda _task, done, total: begun.append((done, total)) or (lambda more: None))
    assert begun[0][0] in (2, 4) and begun[0][1] == 6
    assert out.read_bytes() == whole[0].read_bytes()
    assert not state.parent.exists()


def test_an_interrupted_run_is_not_mixed_with_another(cli, smollm2, queries_file, asked, tmp_path):
    out = tmp_path / "v.safetensors"

    def stop(_task, done, total):
        def advance(more):
            raise KeyboardInterrupt

        return advance

    with pytest.raises(KeyboardInterrupt):
        run(smollm2, out, asked, progress=stop)
    words = command(smollm2, queries_file, out)
    words[words.index("--max-new-tokens") + 1] = "5"
    cli(*words).one_line("v.safetensors.partial", "another max_new_tokens", "--restart")
    cli(*words, "--restart", "-q").ok()
    assert emobake.open_vectors(out).extraction["max_new_tokens"] == 5
    cli(*words).one_line("v.safetensors: exists", "--overwrite")


def test_two_processes_give_the_vectors_of_one(whole, smollm2, queries_file, tmp_path):
    out = tmp_path / "v.safetensors"
    answers = tmp_path / "answers.jsonl"
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "emobake"]
    words = command(smollm2, queries_file, out, "--save-answers", answers, "-q")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_LOG_LEVEL": "error"}
    done = subprocess.run(
        [*launcher, *words], check=False, capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert relative(rows(out), rows(whole[0])) <= 1e-4
    found = emobake.open_vectors(out)
    assert {e: s.count for e, s in found.statistics.items()} == {"fear": 2, "joy": 3}
    assert answers.read_text() == whole[1].read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["answers.jsonl", "v.safetensors"]


def test_the_work_of_more_processes_is_taken_over_by_fewer(whole, smollm2, asked, tmp_path):
    """Two killed processes leave a file each; one of the files has no owner any more."""
    out = tmp_path / "v.safetensors"
    folder = tmp_path / "v.safetensors.partial"

    def stop_after(batches):
        def start(_task, done, total):
            left = iter(range(batches))

            def advance(more):
                if next(left, None) is None:
                    raise KeyboardInterrupt

            return advance

        return start

    with pytest.raises(KeyboardInterrupt):
        run(smollm2, out, asked, progress=stop_after(0))
    for name in ("sums-{}.safetensors", "answers-{}.jsonl"):
        (folder / name.format(0)).rename(folder / name.format(1))
    with pytest.raises(KeyboardInterrupt):
        run(smollm2, out, asked, progress=stop_after(0))
    assert not (folder / "sums-1.safetensors").exists()
    answers = tmp_path / "answers.jsonl"
    run(smollm2, out, asked, save_answers=answers)
    assert relative(rows(out), rows(whole[0])) <= 1e-6
    assert answers.read_text() == whole[1].read_text()


def test_pairs_of_texts_of_ones_own(smollm2, tmp_path):
    pairs = [
        {"positive": "What a wonderful day!", "negative": "It is a day.", "prompt": "How is it?"},
        {"positive": "I could sing.", "negative": "I could sit."},
    ]
    content = "\n".join(map(json.dumps, pairs)).encode()
    run(smollm2, tmp_path / "v.safetensors", q.parse_contrasts(content, "Cheer.jsonl"))
    found = emobake.open_vectors(tmp_path / "v.safetensors")
    assert (found.emotions, found.statistics["cheer"].count) == (("cheer",), 2)
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    seen = []
    model.model.layers[7].self_attn.register_forward_hook(lambda _m, _a, output: seen.append(output[0][0]))
    front = tokenizer.apply_chat_template([{"role": "user", "content": "How is it?"}], add_generation_prompt=True)
    with torch.inference_mode():
        for pair in pairs:
            before = front["input_ids"] if "prompt" in pair else []
            for text in (pair["positive"], pair["negative"]):
                ids = before + tokenizer(text, add_special_tokens=False)["input_ids"]
                model(torch.tensor([ids]))
                seen[-1] = seen[-1][len(before) :].mean(dim=0).numpy()
    assert relative(found.rows[0, 7], (seen[0] - seen[1] + seen[2] - seen[3]) / 2) <= 1e-4


def test_a_query_without_an_answer_is_left_out_and_said(cli, smollm2, tmp_path):
    lines = [
        {"emotion": "joy", "query": "A?", "emotional": "Yes!", "neutral": "Well."},
        {"emotion": "joy", "query": "B?", "emotional": "", "neutral": "Well."},
    ]
    answers, out = tmp_path / "answers.jsonl", tmp_path / "v.safetensors"
    answers.write_text("\n".join(map(json.dumps, lines)))
    words = ("vectors", "extract", "--model", smollm2, "--reuse-answers", answers, "--out", out)
    ran = cli(*words).ok()
    assert "1 of the queries had no answer at all" in ran.err and "'B?' (joy)" in ran.err
    assert emobake.open_vectors(out).extraction["skipped"] == 1
    answers.write_text(json.dumps(lines[1]))
    cli(*words, "--overwrite").one_line("gave no answer at all for joy")


def test_what_is_made_can_be_baked_and_shown(cli, whole, smollm2, tmp_path):
    cli("--model", smollm2, "--vectors", whole[0], "--mix", "nostalgia=1", "--dry-run").ok()
    shown = cli("vectors", "show", whole[0]).ok().out
    assert "nostalgia" in shown and "joy" in shown
    record = json.loads(cli("vectors", "show", whole[0], "--json").ok().out)
    assert json.dumps(record).count(str(Path(smollm2).parent)) == 0, "no local paths"


def test_bad_input(cli, smollm2, queries_file, tmp_path):
    words = command(smollm2, queries_file, tmp_path / "v.safetensors")
    cli(*command(smollm2, queries_file, tmp_path / "v.bin")).one_line("v.bin", ".safetensors")
    cli(*command(smollm2, queries_file, tmp_path / "none" / "v.safetensors")).one_line("folder does not exist")
    cli(*command(tmp_path, queries_file, tmp_path / "v.safetensors")).one_line("config.json")
    cli(*command(smollm2, "no-such-queries", tmp_path / "v.safetensors")).one_line("no-such-queries", "emotionquery")
    cli(*words, "--emotional-prompt", "nothing").one_line("--emotional-prompt", "{query}")
    cli(*words, "--emotions", "awe").one_line("awe", "joy")
    cli(*words, "--contrast", queries_file).one_line("--contrast")
    cli(*words, "--device", "cuda:99").one_line("cuda:99")
    assert list(tmp_path.iterdir()) == []
