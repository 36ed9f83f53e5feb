"""SDXL's sizes, as diffusers writes them."""


def unet(tiny):
    channels = 32 if tiny else 320
    return dict(sample_size=16 if tiny else 128, in_channels=4, out_channels=4, layers_per_block=2,
                block_out_channels=(channels, 2 * channels, 4 * channels),
                attention_head_dim=(5, 2 * channels // 64, 4 * channels // 64),  # heads, in spite of the name
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 2, 10), cross_attention_dim=2048, use_linear_projection=True,
                addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816)


def vae(tiny):
    channels = 32 if tiny else 128
    return dict(in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4, scaling_factor=0.13025,
                block_out_channels=(channels, 2 * channels, 4 * channels, 4 * channels), sample_size=1024)
