"""Names of segmentation_models_pytorch 0.6, to check a sweep file without torch; a test compares them with the library."""

_UNET = ("encoder_depth", "decoder_use_norm", "decoder_channels", "decoder_attention_type", "decoder_interpolation")
_DEEPLAB = (
    "encoder_depth",
    "encoder_output_stride",
    "decoder_channels",
    "decoder_atrous_rates",
    "decoder_aspp_separable",
    "decoder_aspp_dropout",
    "upsampling",
)
ARCHITECTURES = {
    "Unet": _UNET,
    "UnetPlusPlus": _UNET,
    "MAnet": ("encoder_depth", "decoder_use_norm", "decoder_channels", "decoder_pab_channels", "decoder_interpolation"),
    "Linknet": ("encoder_depth", "decoder_use_norm"),
    "FPN": (
        "encoder_depth",
        "decoder_pyramid_channels",
        "decoder_segmentation_channels",
        "decoder_merge_policy",
        "decoder_dropout",
        "decoder_interpolation",
        "upsampling",
    ),
    "PSPNet": ("encoder_depth", "psp_out_channels", "decoder_use_norm", "psp_dropout", "upsampling"),
    "DeepLabV3": _DEEPLAB,
    "DeepLabV3Plus": _DEEPLAB,
    "PAN": ("encoder_depth", "encoder_output_stride", "decoder_channels", "decoder_interpolation", "upsampling"),
    "UPerNet": ("encoder_depth", "decoder_channels", "decoder_use_norm", "upsampling"),
    "Segformer": ("encoder_depth", "decoder_segmentation_channels", "upsampling"),
    "DPT": (
        "encoder_depth",
        "encoder_output_indices",
        "decoder_readout",
        "decoder_intermediate_channels",
        "decoder_fusion_channels",
    ),
}
"""Architecture -> arguments that ``arch_options`` may set. Other fields of the configuration set smp's remaining arguments."""

ENCODERS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "resnext50_32x4d", "resnext101_32x4d", "resnext101_32x8d", "resnext101_32x16d", "resnext101_32x32d", "resnext101_32x48d",
    "dpn68", "dpn68b", "dpn92", "dpn98", "dpn107", "dpn131",
    "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn",
    "senet154", "se_resnet50", "se_resnet101", "se_resnet152", "se_resnext50_32x4d", "se_resnext101_32x4d",
    "densenet121", "densenet161", "densenet169", "densenet201",
    "inceptionresnetv2", "inceptionv4", "xception", "mobilenet_v2",
    "efficientnet-b0", "efficientnet-b1", "efficientnet-b2", "efficientnet-b3",
    "efficientnet-b4", "efficientnet-b5", "efficientnet-b6", "efficientnet-b7",
    "timm-efficientnet-b0", "timm-efficientnet-b1", "timm-efficientnet-b2", "timm-efficientnet-b3", "timm-efficientnet-b4",
    "timm-efficientnet-b5", "timm-efficientnet-b6", "timm-efficientnet-b7", "timm-efficientnet-b8", "timm-efficientnet-l2",
    "timm-tf_efficientnet_lite0", "timm-tf_efficientnet_lite1", "timm-tf_efficientnet_lite2",
    "timm-tf_efficientnet_lite3", "timm-tf_efficientnet_lite4",
    "timm-skresnet18", "timm-skresnet34", "timm-skresnext50_32x4d",
    "mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5",
    "mobileone_s0", "mobileone_s1", "mobileone_s2", "mobileone_s3", "mobileone_s4",
)  # fmt: skip

ENCODER_PREFIXES = ("tu-", "timm-regnet", "timm-res2", "timm-resnest", "timm-mobilenetv3", "timm-gernet")
"""Encoders that smp takes from timm; only building the model shows whether timm knows the rest of the name."""
