"""FastAPI and scikit-learn, as one would write it in an hour."""

import sys

import joblib
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
model = joblib.load(sys.argv[2])


class Body(BaseModel):
    """Paragraphs to label."""

    paragraphs: list[str]


@app.post("/label")
def label(body: Body) -> list[list[float]]:
    return model(body.paragraphs).tolist()


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
