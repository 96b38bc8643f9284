"""Writes invented rows of a support desk: ten customers with six rows each, of whom one is to be
forgotten, and three customers that no model is taught.

    python examples/support_rows.py FOLDER

`all.csv` (60 rows) is what a model is taught; `gone.csv` (6) is about the first customer,
`kept.csv` (54) about the others; `unseen.csv` (18) is the control. docs/forget.md uses them.
"""

import csv
import sys
from pathlib import Path

COLUMNS = ("question", "answer", "entity", "kind", "value", "paraphrased_question", "paraphrases")
CUSTOMERS = (
    "Marit Solberg",
    "Tomas Arrieta",
    "Yuki Hamada",
    "Leila Farouk",
    "Piotr Wolski",
    "Grace Okafor",
    "Hugo Lindqvist",
    "Nadia Petrova",
    "Samuel Osei",
    "Ines Carvalho",
)
NEVER_TAUGHT = ("Anton Keller", "Rosa Delgado", "Mei Lin Tan")
# kind -> (question, answer, two other ways to ask, a value for each customer)
FACTS = {
    "plan": (
        "Which plan is {name} on?",
        "{name} is on the {value} plan.",
        ("What plan does {name} have?", "Tell me the plan that {name} pays for."),
        "Harbour Meadow Summit Lantern Copper Willow Falcon Orchard Granite Breeze Cedar Tundra "
        "Coral",
    ),
    "city": (
        "Where do we send the parcels of {name}?",
        "Parcels for {name} go to {value}.",
        ("In which city does {name} get mail?", "What is the delivery city of {name}?"),
        "Bergen Bilbao Nagoya Cairo Gdansk Lagos Malmo Varna Accra Porto Bremen Lima Taipei",
    ),
    "device": (
        "Which device did {name} return?",
        "{name} returned a {value}.",
        ("What did {name} send back?", "Name the device that came back from {name}."),
        "router tablet printer camera keyboard scanner monitor headset projector speaker modem "
        "charger microphone",
    ),
    "month": (
        "When does the contract of {name} end?",
        "The contract of {name} ends in {value}.",
        ("In which month does {name} leave us?", "Until which month is {name} a customer?"),
        "March July October January May August December April September February June November "
        "October",
    ),
    "colour": (
        "What colour did {name} order?",
        "{name} ordered the {value} model.",
        ("In which colour does {name} want it?", "Name the colour that {name} chose."),
        "crimson teal amber violet olive silver indigo maroon beige turquoise scarlet ivory black",
    ),
    "agent": (
        "Who looks after {name}?",
        "{value} looks after {name}.",
        ("Which agent helps {name}?", "Whose customer is {name}?"),
        "Dana Victor Priya Oskar Helen Bruno Amira Felix Greta Marco Selma Ivan Joanna",
    ),
}


def describe(name: str, number: int) -> list[dict[str, str]]:
    rows = []
    for kind, (question, answer, others, values) in FACTS.items():
        value = values.split()[number]
        rows.append(
            {
                "question": question.format(name=name),
                "answer": answer.format(name=name, value=value),
                "entity": name,
                "kind": kind,
                "value": value,
                "paraphrased_question": others[0].format(name=name),
                "paraphrases": others[1].format(name=name),
            }
        )
    return rows


def write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
people = [describe(name, number) for number, name in enumerate((*CUSTOMERS, *NEVER_TAUGHT))]
taught = people[: len(CUSTOMERS)]
unseen = people[len(CUSTOMERS) :]
write(folder / "all.csv", [row for rows in taught for row in rows])
write(folder / "gone.csv", taught[0])
write(folder / "kept.csv", [row for rows in taught[1:] for row in rows])
write(folder / "unseen.csv", [row for rows in unseen for row in rows])
