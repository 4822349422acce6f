"""Classifiers, segmentation, detection and the other image models."""

from __future__ import annotations

from typing import Any

from case import Case, directory, state_dict, training, ultralytics, with_processor


def _timm(name: str, **options: Any) -> Any:
    import timm

    return timm.create_model(name, **options)


def _torchvision(name: str, **options: Any) -> Any:
    from torchvision import models

    return models.get_model(name, weights=None, **options)


def _smp(name: str, encoder: str, **options: Any) -> Any:
    import segmentation_models_pytorch as smp

    return getattr(smp, name)(encoder, encoder_weights=None, **options)


def _efficientnet() -> Any:
    from efficientnet_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-b0")


def _transformers(name: str, config: str, **options: Any) -> Any:
    import transformers

    return getattr(transformers, name)(getattr(transformers, config)(**options))


def _open_clip() -> Any:
    from open_clip.model import CLIP

    tower = {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64}
    text = {"context_length": 16, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}
    return CLIP(embed_dim=32, vision_cfg=tower, text_cfg=text).visual


def _monai(name: str, *sizes: Any, **options: Any) -> Any:
    from monai.networks import nets

    return getattr(nets, name)(*sizes, **options)


def _facenet() -> Any:
    from facenet_pytorch import InceptionResnetV1

    return InceptionResnetV1()


def _doctr(name: str, **options: Any) -> Any:
    from doctr import models

    # Without exportable, the forward returns boxes and words: no tensor.
    return getattr(models, name)(pretrained=False, pretrained_backbone=False, **options)


def _hardnet() -> Any:
    from kornia.feature import HardNet

    return HardNet(False)


def _lpips() -> Any:
    import lpips

    return lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)


def _xray() -> Any:
    import torchxrayvision

    return torchxrayvision.models.DenseNet(num_classes=18, in_channels=1)


def _yolo(kind: str, config: str) -> Any:
    from ultralytics.nn import tasks

    return getattr(tasks, kind)(config, verbose=False)


_SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_TRUST = ("--trust",)

CASES = (
    Case("resnet18", "torchvision", "resnet18", lambda: _torchvision("resnet18"),
         "resnet18.pth", state_dict),
    Case("mobilenet_v3", "torchvision", "mobilenet_v3_small, 4 classes",
         lambda: _torchvision("mobilenet_v3_small", num_classes=4), "checkpoint.pth", training,
         words=("--arch", "torchvision:mobilenet_v3_small")),
    Case("deeplabv3", "torchvision", "deeplabv3_mobilenet_v3_large",
         lambda: _torchvision("deeplabv3_mobilenet_v3_large", weights_backbone=None), "deeplab.pt"),
    Case("resnet26d", "timm", "resnet26d", lambda: _timm("resnet26d"), "resnet26d.pth",
         state_dict, words=("--arch", "timm:resnet26d")),
    Case("repvgg", "timm", "repvgg_a0", lambda: _timm("repvgg_a0"), "repvgg.pt"),
    Case("convnext", "timm", "convnext_atto", lambda: _timm("convnext_atto"), "convnext.pt"),
    Case("smp_unet", "segmentation_models_pytorch", "Unet, resnet18",
         lambda: _smp("Unet", "resnet18", classes=3), "unet.pt",
         words=("--allow-global", "segmentation_models_pytorch.*")),
    Case("smp_deeplab", "segmentation_models_pytorch", "DeepLabV3Plus, efficientnet-b0",
         lambda: _smp("DeepLabV3Plus", "efficientnet-b0"), "deeplab.pt", words=_TRUST),
    Case("efficientnet", "efficientnet_pytorch", "efficientnet-b0", _efficientnet, "eff.pth",
         training, words=("--arch", "efficientnet_pytorch:EfficientNet.from_name",
                          "--arch-arg", "model_name=efficientnet-b0")),
    Case("hf_resnet", "transformers", "ResNetForImageClassification",
         lambda: _transformers("ResNetForImageClassification", "ResNetConfig", embedding_size=16,
                               hidden_sizes=[32, 64, 64, 64], depths=[1, 1, 1, 1]),
         "hf_resnet", with_processor, inputs=()),
    Case("hf_mobilenet", "transformers", "MobileNetV2ForImageClassification",
         lambda: _transformers("MobileNetV2ForImageClassification", "MobileNetV2Config"),
         "hf_mobilenet", directory),
    Case("hf_vit", "transformers", "ViTForImageClassification",
         lambda: _transformers("ViTForImageClassification", "ViTConfig", **_SMALL,
                               intermediate_size=128, image_size=64, patch_size=16),
         "hf_vit", directory),
    Case("hf_segformer", "transformers", "SegformerForSemanticSegmentation",
         lambda: _transformers("SegformerForSemanticSegmentation", "SegformerConfig",
                               hidden_sizes=[16, 32, 32, 32], depths=[1, 1, 1, 1],
                               decoder_hidden_size=32),
         "hf_segformer", directory),
    Case("open_clip", "open_clip", "CLIP's ResNet tower", _open_clip, "clip.pt", words=_TRUST),
    Case("monai_unet", "monai", "UNet, 2D",
         lambda: _monai("UNet", 2, 1, 2, channels=(8, 16, 32), strides=(2, 2), norm="batch",
                        num_res_units=2),
         "unet.pt", inputs=("1x1x64x64",), words=_TRUST),
    Case("monai_segresnet", "monai", "SegResNet, 3D",
         lambda: _monai("SegResNet", spatial_dims=3, init_filters=8, norm="BATCH"),
         "segresnet.pt", inputs=("1x1x32x32x32",), words=_TRUST),
    Case("monai_densenet", "monai", "DenseNet121", lambda: _monai("DenseNet121", 2, 1, 3),
         "densenet.pt", inputs=("1x1x64x64",), words=_TRUST),
    Case("facenet", "facenet_pytorch", "InceptionResnetV1", _facenet, "facenet.pt",
         inputs=("1x3x160x160",), words=_TRUST),
    Case("doctr_db", "doctr", "db_resnet50, not exportable", lambda: _doctr("db_resnet50"), "db.pt",
         words=_TRUST, exit_code=4, message="exportable=True"),
    Case("doctr_db_logits", "doctr", "db_resnet50, exportable",
         lambda: _doctr("db_resnet50", exportable=True), "db.pt", words=_TRUST),
    Case("doctr_crnn", "doctr", "crnn_mobilenet_v3_small, exportable",
         lambda: _doctr("crnn_mobilenet_v3_small", exportable=True), "crnn.pt",
         inputs=("1x3x32x128",), words=_TRUST),
    Case("hardnet", "kornia", "HardNet", _hardnet, "hardnet.pt", inputs=("4x1x32x32",),
         words=_TRUST),
    Case("lpips", "lpips", "LPIPS, squeeze", _lpips, "lpips.pt",
         inputs=("in0=1x3x64x64", "in1=1x3x64x64"), words=_TRUST),
    Case("xray", "torchxrayvision", "DenseNet", _xray, "xray.pt", inputs=("1x1x64x64",),
         words=_TRUST),
    Case("yolov8n", "ultralytics", "YOLOv8n", lambda: _yolo("DetectionModel", "yolov8n.yaml"),
         "best.pt", ultralytics, inputs=("1x3x128x128",), words=_TRUST),
    Case("yolo11n_seg", "ultralytics", "YOLO11n-seg",
         lambda: _yolo("SegmentationModel", "yolo11n-seg.yaml"), "best.pt", ultralytics,
         inputs=("1x3x128x128",), words=("--allow-global", "ultralytics.*")),
)  # fmt: skip
