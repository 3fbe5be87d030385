"""Renders the chart with Helm's own library, and validates what comes out: a job in, a JSON page out.

The job: {"chart": folder, "kubernetes": version, "cases": {name: values}}. The page: name -> {"error"} where Helm
refuses the values, else {"documents", "faults", "unknown"}: what was rendered, what Kubernetes would not take, kinds
that it does not know by itself.
"""

import json
import sys

import helm_python as helm
import kubernetes_validate
import yaml


def render(chart, values, kubernetes):
    try:
        with helm.Chart.load(chart) as loaded:
            rendered = loaded.render(values, name="speech", namespace="voices")
    except helm.HelmError as error:
        return {"error": str(error)}
    texts = [text for name, text in rendered.items() if name.endswith(".yaml")]
    documents = [document for text in texts for document in yaml.safe_load_all(text) if document]
    faults, unknown = [], []
    for document in documents:
        try:
            kubernetes_validate.validate(document, kubernetes, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            unknown.append(document["kind"])
        except kubernetes_validate.ValidationError as error:
            faults.append(
                f"{document['kind']} {document['metadata']['name']} {list(error.path)}: {error.message}"
            )
    return {"documents": documents, "faults": faults, "unknown": unknown}


job = json.loads(open(sys.argv[1]).read())
page = {name: render(job["chart"], values, job["kubernetes"]) for name, values in job["cases"].items()}
print(json.dumps(page))
