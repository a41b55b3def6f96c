"""LitServe with its batching."""

import sys

import joblib
import litserve


class Label(litserve.LitAPI):
    """Label what came in together."""

    def setup(self, _: str) -> None:
        self.model = joblib.load(sys.argv[2])

    def decode_request(self, request: dict) -> list[str]:
        return request["paragraphs"]

    def batch(self, inputs: list[list[str]]) -> list[list[str]]:
        return inputs

    def predict(self, asked: list[list[str]]) -> list[list[list[float]]]:
        scores = self.model([text for texts in asked for text in texts]).tolist()
        found, at = [], 0
        for texts in asked:
            found.append(scores[at : at + len(texts)])
            at += len(texts)
        return found

    def unbatch(self, output: list[list[list[float]]]) -> list[list[list[float]]]:
        return output

    def encode_response(self, output: list[list[float]]) -> dict:
        return {"scores": output}


if __name__ == "__main__":
    api = Label(max_batch_size=64, batch_timeout=0.001, api_path="/label")
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(
        port=int(sys.argv[1]), generate_client_file=False, log_level="error"
    )
