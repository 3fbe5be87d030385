"""Sentences with rare names, for the benchmark of key terms, spoken by espeak-ng: recordings at hand hold few of them.

Its voices are plain ones, which no model here was made for, so that error rates are those of very bad audio.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cli import bench_clips
from cli.bench_clips import Clip
from cli.bench_machine import ToolMissing

VOICES = ("en-us", "en-gb")
WORDS_PER_MINUTE = 150
#: What is said, and the key terms in it.
SENTENCES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("We deployed Kubernetes on the Proxmox cluster.", ("Kubernetes", "Proxmox")),
    ("My name is Siobhan Kowalczyk and I live in Llanelli.", ("Siobhan", "Kowalczyk", "Llanelli")),
    ("Please call doctor Nguyen at the Kennestone hospital.", ("Nguyen", "Kennestone")),
    ("Our database is PostgreSQL with the Grafana dashboard.", ("PostgreSQL", "Grafana")),
    ("Send the report to Beckett and Wittgenstein.", ("Beckett", "Wittgenstein")),
    ("The patient was given Zolgensma and Trikafta yesterday.", ("Zolgensma", "Trikafta")),
    ("He was prescribed metoprolol and atorvastatin for his heart.", ("metoprolol", "atorvastatin")),
    ("The train to Llandudno leaves from Shrewsbury.", ("Llandudno", "Shrewsbury")),
    ("We met Joaquin Fernandez in Albuquerque.", ("Joaquin Fernandez", "Albuquerque")),
    ("The Anthropic team wrote about Claude.", ("Anthropic", "Claude")),
    ("I would like two plates of gnocchi and a bouillabaisse.", ("gnocchi", "bouillabaisse")),
    ("The keynote was given by Satya Nadella.", ("Satya Nadella",)),
    ("Redis and Terraform run on the same machine.", ("Redis", "Terraform")),
    ("Mister Featherstonehaugh bought a house in Worcestershire.", ("Featherstonehaugh", "Worcestershire")),
    ("The drug pembrolizumab is also called Keytruda.", ("pembrolizumab", "Keytruda")),
    ("We flew from Reykjavik to Ljubljana.", ("Reykjavik", "Ljubljana")),
    ("The professor cited Nietzsche and Kierkegaard.", ("Nietzsche", "Kierkegaard")),
    ("Her dog is a Rottweiler called Zephyr.", ("Rottweiler", "Zephyr")),
    ("Ask Priyanka Venkataraman about the invoice.", ("Priyanka", "Venkataraman")),
    ("The turbine was built by Schneider in Poughkeepsie.", ("Schneider", "Poughkeepsie")),
)
SAID = tuple(term for _, terms in SENTENCES for term in terms)
#: A hundred that nobody says, in no recording either: rare names, brands, and plain words that are names, too.
OTHERS = tuple(
    """Okonkwo;Thessaloniki;ibuprofen;omeprazole;Ansible;Prometheus;Kafka;Jenkins;Wrzesniewski;Bratislava;Zuckerberg;
    Hemingway;Dostoevsky;Caravaggio;Leicester;Edinburgh;Massachusetts;Connecticut;Schenectady;Tchaikovsky;Rachmaninoff;
    Machu Picchu;Kilimanjaro;Popocatepetl;quinoa;ceviche;prosciutto;sauvignon;Gewurztraminer;Lamborghini;Porsche;
    Hyundai;Xiaomi;Huawei;Airbnb;Snowflake;Databricks;OpenTelemetry;Elasticsearch;RabbitMQ;Jamal;Xavier;Guillermo;Bjork;
    Aoife;Niamh;Saoirse;Mbappe;Lewandowski;Schwarzenegger;acetaminophen;lisinopril;hydrochlorothiazide;Ozempic;Wegovy;
    Humira;Kaiser Permanente;Mayo Clinic;Goldman Sachs;BlackRock;Berkshire Hathaway;Bryn Mawr;Schuylkill;Conshohocken;
    Wilkes-Barre;Boise;Des Moines;Baton Rouge;Spokane;Yosemite;Okefenokee;Saskatchewan;Winnipeg;Nunavut;Iqaluit;
    Mark;Rose;Grace;Drew;Frank;Bill;Chase;Miles;Wade;Dale;Reed;Jack;Holly;Penny;Ruby;Pearl;Olive;Iris;Stripe;Slack;Zoom;
    Oracle;Delta;Frontier;Wells Fargo""".replace("\n    ", "").split(";")
)


def program() -> str:
    """Where espeak-ng is. Raises ToolMissing."""
    found = shutil.which("espeak-ng")
    if found is None:
        raise ToolMissing("this benchmark needs espeak-ng; on Debian and Ubuntu: apt install espeak-ng")
    return found


def spoken(sentences: Sequence[tuple[str, tuple[str, ...]]]) -> list[Clip]:
    """Each sentence in each voice. Raises ToolMissing."""
    clips, speaker = list[Clip](), program()
    with tempfile.TemporaryDirectory(prefix="steno-bench-") as scratch:
        for voice in VOICES:
            for number, (text, _) in enumerate(sentences):
                path = Path(scratch) / f"{voice}-{number}.wav"
                order = [speaker, "-v", voice, "-s", str(WORDS_PER_MINUTE), "-w", str(path), text]
                subprocess.run(order, check=True, capture_output=True, timeout=30)
                clips.append(Clip(path.stem, bench_clips.samples(path), text))
    return clips
