"""A report with one row of every kind: best, undecided, slower, unstable, not measured."""

from __future__ import annotations

from deployfold.reporting.conditions import Environment, ModelInput, Source, StageCost
from deployfold.reporting.fold import FoldedNorm, FoldSummary, LeftNorm, Verification
from deployfold.reporting.layers import QuantizationSummary, QuantizedLayer
from deployfold.reporting.report import Report, ThresholdResult
from deployfold.reporting.row import Accuracy, BatchPoint, ColdStart, Latency, Row, Speedup

BEFORE, AFTER = 25_557_032, 25_530_472


def latency(ms: float, speedup: tuple[float, float, float], note: str | None = None) -> Latency:
    value, low, high = speedup
    return Latency(
        median_ms=ms,
        p90_ms=ms * 1.04,
        p95_ms=ms * 1.06,
        p99_ms=ms * 1.2,
        throughput=1e3 / ms,
        speedup=Speedup(value=value, low=low, high=high),
        rounds=48,
        samples=48,
        stable=note is None,
        note=note,
    )


def sample_report() -> Report:
    def folded_row(name: str, title: str, size: int, **rest: object) -> Row:
        return Row.model_validate(
            {"name": name, "title": title, "bytes": size, "parameters": AFTER}
            | {"batchnorm_layers": 1}
            | rest
        )

    near = Accuracy(max_abs_diff=1.9e-6, sqnr_db=124.31, cosine=1.0, top1_agreement=1.0)
    rows = (
        Row(
            name="pytorch",
            title="PyTorch",
            artifact="resnet50.pt",
            parameters=BEFORE,
            batchnorm_layers=53,
            bytes=102_530_333,
            latency=latency(61.23, (1, 1, 1)),
        ),
        folded_row(
            "folded",
            "PyTorch, folded",
            102_200_001,
            latency=latency(55.91, (1.096, 1.081, 1.112)),
            accuracy=near,
        ),
        folded_row(
            "torchscript",
            "TorchScript",
            102_410_000,
            latency=latency(60.8, (1.007, 0.991, 1.02)),
            accuracy=near,
        ),
        folded_row(
            "program",
            "torch.export",
            104_690_000,
            latency=latency(66.8, (0.921, 0.911, 0.93)),
            accuracy=Accuracy(max_abs_diff=0.0, sqnr_db=float("inf")),
        ),
        folded_row(
            "onnxruntime",
            "ONNX Runtime",
            102_140_000,
            latency=latency(
                29.66, (2.06, 2.041, 2.088), "coefficient of variation 4.1 %, above 2.5 %"
            ),
            accuracy=Accuracy(max_abs_diff=3.1e-6, sqnr_db=119.8),
        ),
        folded_row(
            "onnxruntime-fp16",
            "ONNX Runtime fp16",
            51_130_000,
            latency=latency(84.1, (0.73, 0.72, 0.739)),
            accuracy=Accuracy(max_abs_diff=4.7e-1, sqnr_db=18.2),
            notes=("ONNX Runtime computes fp16 in fp32 on this CPU",),
        ),
        folded_row(
            "tensorrt-fp16",
            "TensorRT-RTX fp16 sm_89",
            51_930_000,
            not_measured="built for sm_89; measure it there: deployfold bench DIR",
        ),
    )
    return Report(
        deployfold_version="0.1.0",
        created="2026-01-02T03:04:05Z",
        source=Source(
            path="resnet50.pt",
            kind="state_dict",
            arch="torchvision:resnet50",
            sha256="ab" * 32,
            bytes=102_530_333,
        ),
        inputs=(ModelInput(name="input", shape=(1, 3, 224, 224), dtype="float32"),),
        input_origin="torchvision:resnet50",
        fold=FoldSummary(
            batchnorm_before=53,
            parameters_before=BEFORE,
            parameters_after=AFTER,
            folded=tuple(
                FoldedNorm(name=f"layer{i}.bn", rule="conv before", into=f"layer{i}.conv")
                for i in range(52)
            ),
            left=(LeftNorm(name="head.bn", reason="its layer's output also goes to head.add"),),
            verification=Verification(
                float64_relative_difference=3.1e-15, native_max_abs_diff=1.9e-6, inputs=2
            ),
        ),
        rows=rows,
        environment=Environment(
            cpu="AMD EPYC 7763",
            physical_cores=2,
            threads=2,
            os="Linux 6.1 x86_64",
            python="3.11.7",
            packages={"torch": "2.14.1", "onnxruntime": "1.32.0"},
        ),
        thresholds=(
            ThresholdResult(
                name="min-speedup", limit=1.5, value=2.06, row="onnxruntime", passed=True
            ),
        ),
    )


def full_report() -> Report:
    """The sample with every optional measurement."""
    report = sample_report()
    baseline, folded, script, *middle, fp16, engine = report.rows
    quantization = QuantizationSummary(
        quantized_macs_share=0.938,
        calibrated=False,
        layers=(
            QuantizedLayer(
                name="layer1.0.conv1", op_type="Conv", precision="int8", macs=12_845_056,
                sqnr_db=31.4, input_range=2.64, estimator="entropy",
            ),
            QuantizedLayer(
                name="fc", op_type="Gemm", precision="int8", macs=2_048_000, sqnr_db=17.25,
                input_range=11.5, estimator="percentile 99.99",
            ),
            QuantizedLayer(
                name="conv1", op_type="Conv", precision="fp32", macs=118_013_952,
                reason="the first layer, kept by default",
            ),
        ),
    )  # fmt: skip
    agreed = Accuracy(
        max_abs_diff=0.21, sqnr_db=24.9, cosine=0.998, top1_agreement=0.971, top5_agreement=0.999,
        accuracy=0.748, samples=1000,
    )  # fmt: skip
    same = Accuracy(
        max_abs_diff=0.0, sqnr_db=float("inf"), cosine=1.0, top1_agreement=1.0, top5_agreement=1.0,
        accuracy=0.761, samples=1000,
    )  # fmt: skip
    fixed = BatchPoint(batch=8, not_measured="exported with the fixed batch 1")
    sweep = (
        BatchPoint(batch=1, median_ms=29.66, throughput=33.7, stable=True),
        BatchPoint(batch=8, median_ms=188.0, throughput=42.6, stable=True),
        BatchPoint(batch=32, median_ms=744.0, throughput=43.0),
    )
    rows = (
        baseline.model_copy(update={"accuracy": same, "sweep": sweep}),
        folded.model_copy(update={"accuracy": same}),
        script.model_copy(
            update={
                "sweep": (sweep[0], fixed),
                "cold_start": ColdStart(
                    load_ms=68.4, first_ms=152.0, total_ms=220.4, peak_bytes=86_712_320, runs=3
                ),
            }
        ),
        *middle,
        fp16.model_copy(
            update={
                "name": "onnxruntime-int8",
                "title": "ONNX Runtime int8",
                "quantization": quantization,
                "accuracy": agreed,
                "cold_start": ColdStart(not_measured="it took longer than 600 s"),
            }
        ),
        engine.model_copy(update={"title": "TensorRT-RTX fp16, sm_80-sm_86-sm_89-sm_120"}),
    )
    stages = (
        StageCost(stage="load", seconds=2.61, peak_bytes=1_203_765_248),
        StageCost(stage="fold", seconds=1.94, peak_bytes=1_640_000_000),
        StageCost(stage="measure", seconds=31.4),
    )
    return report.model_copy(update={"rows": rows, "stages": stages})


def with_quantiles(report: Report) -> Report:
    """The report with 21 quantiles of every latency."""
    rows = [
        row.model_copy(
            update={
                "latency": row.latency.model_copy(
                    update={"quantiles_ms": tuple(row.latency.median_ms + i for i in range(21))}
                )
            }
        )
        if row.latency
        else row
        for row in report.rows
    ]
    return report.model_copy(update={"rows": tuple(rows)})


def crowded_report() -> Report:
    """Twelve rows with long names at nearly one place of the chart, of a network in many groups."""
    report = full_report()
    first, name = report.rows[0], "TensorRT-RTX fp16, sm_80-sm_86-sm_89-sm_120"
    rows = [first]
    for index, sqnr in enumerate((127.7, 127.7, 126.9, 121.0, 65.7, 65.7, 65.6, 40.2, 40.1, 8.2)):
        ms = 20.0 + index / 10
        rows.append(
            Row(
                name=f"row-{index}", title=f"{name} {index}", bytes=51_930_000 - 4_000_000 * index,
                parameters=AFTER, batchnorm_layers=1, latency=latency(ms, (3.0, 2.4, 3.6)),
                accuracy=Accuracy(max_abs_diff=1e-3, sqnr_db=sqnr),
                quantization=report.rows[5].quantization if index > 6 else None,
            )
        )  # fmt: skip
    rows.append(report.rows[-1])
    layers = tuple(
        QuantizedLayer(
            name=f"backbone.stage{index // 30}.block{index % 30}.attention.qkv_projection",
            op_type="MatMul", precision="fp16" if index % 9 == 4 else "int8", macs=1_000_000,
            sqnr_db=20.0 + index % 25, reason="its output loses more than 30 dB",
        )
        for index in range(120)
    )  # fmt: skip
    summary = QuantizationSummary(quantized_macs_share=0.9, calibrated=True, layers=layers)
    rows[-3] = rows[-3].model_copy(update={"quantization": summary})
    fold = FoldSummary(
        batchnorm_before=91, parameters_before=BEFORE, parameters_after=AFTER,
        folded=tuple(
            FoldedNorm(
                name=f"backbone.stage{index // 30}.block{index % 30}.norm{index % 2}",
                rule="into the producer", into=f"backbone.stage{index // 30}.conv",
            )
            for index in range(90)
        ),
        left=(LeftNorm(name="head.norm", reason="its input is padded with zeros " * 6),),
    )  # fmt: skip
    crowded = report.model_copy(update={"rows": tuple(rows), "fold": fold})
    return with_quantiles(crowded)
