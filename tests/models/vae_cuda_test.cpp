#include <gtest/gtest.h>

#include <cmath>

#include "eri/models/synthetic.h"
#include "eri/models/vae.h"
#include "eri/models/vae_tiling.h"
#include "flame/device/graph.h"
#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"
#include "tests/distance.h"

namespace eri {
namespace {

using namespace flame;

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.to_host<float>() == b.to_host<float>();
}

// A small autoencoder with all that SDXL's has: levels with and without a shortcut of their own.
Geometry small() {
  Geometry geometry;
  geometry.name = "small";
  geometry.vae.ch = 32;
  return geometry;
}

class VaeOnGpu : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "there is no GPU on this machine";
    set_deterministic(true);
  }
  void TearDown() override {
    set_deterministic(false);
    if (cuda_device_count() > 0) set_memory_limit(gpu(), 0);
  }

  static Device gpu() { return Device::cuda(); }
  static std::shared_ptr<SyntheticCheckpoint> weights(const Geometry& geometry) {
    return std::make_shared<SyntheticCheckpoint>(geometry, 3, vae_prefix);
  }
  static AutoencoderKL make(DType dtype, const Geometry& geometry = small()) {
    return AutoencoderKL(Scope(*weights(geometry), dtype, gpu()));
  }
  static AutoencoderKL fused(DType dtype, const Geometry& geometry = small()) {
    AutoencoderKL network = make(dtype, geometry);
    network.fuse();
    return network;
  }
  Tensor picture(int64_t n, int64_t height, int64_t width) {
    return (Tensor::rand({n, 3, height, width}, generator_) * 2 - 1).to(gpu());
  }
  Tensor latents(int64_t n, int64_t height, int64_t width) {
    return Tensor::randn({n, 4, height, width}, generator_).to(gpu());
  }

  Generator generator_{7};
};

// In 16 bits the fused way may be as far from f32 as the layers one by one are, and a tenth more; and four times what
// the ratio of two root mean squares over so few values scatters by.
double as_far(const Tensor& values) { return 1.1 + 4 / std::sqrt(static_cast<double>(values.numel())); }

TEST_F(VaeOnGpu, FusedIsAsNearToF32AsLayerByLayer) {
  const AutoencoderKL wide = make(DType::f32);
  for (DType dtype : {DType::bf16, DType::f16}) {
    const AutoencoderKL plain = make(dtype), fast = fused(dtype);
    for (const auto& [n, height, width] : {std::array{1, 128, 96}, {2, 64, 200}, {3, 8, 16}}) {
      const Tensor image = picture(n, height, width), z = latents(n, height / 8, width / 8);
      const Tensor moments = wide.moments(image), decoded = wide.decode(z);
      const double far_moments = distance(plain.moments(image), moments), far = distance(plain.decode(z), decoded);
      const double got_moments = distance(fast.moments(image), moments), got = distance(fast.decode(z), decoded);
      std::cout << dtype << ", " << n << " x " << height << " x " << width << ": moments " << got_moments
                << " (layer by layer " << far_moments << "), picture " << got << " (" << far << ")\n";
      EXPECT_LT(got_moments, as_far(moments) * far_moments);
      EXPECT_LT(got, as_far(decoded) * far);
    }
  }
}

TEST_F(VaeOnGpu, RepeatsAndReplaysToTheBit) {
  const AutoencoderKL network = fused(DType::bf16);
  const Tensor image = picture(2, 64, 96), z = latents(2, 8, 12);
  const Tensor moments = network.moments(image), decoded = network.decode(z);
  EXPECT_TRUE(same_bits(network.moments(image), moments));
  EXPECT_TRUE(same_bits(network.decode(z), decoded));
  const Tensor again_moments = Tensor::empty(moments.shape(), DType::f32, gpu());
  const Tensor again = Tensor::empty(decoded.shape(), DType::f32, gpu());
  const CapturedGraph graph(gpu(), [&] {
    const ArenaScope arena(gpu());
    again_moments.copy_from(network.moments(image));
    again.copy_from(network.decode(z));
  });
  graph();
  EXPECT_TRUE(same_bits(again_moments, moments));
  EXPECT_TRUE(same_bits(again, decoded));
}

TEST_F(VaeOnGpu, OneTileThatHoldsAllIsTheWhole) {
  const AutoencoderKL network = fused(DType::bf16);
  const Tensor z = latents(1, 9, 7);  // no larger than the step to the next tile
  EXPECT_TRUE(same_bits(decode_in_tiles(network, z, 96), network.decode(z)));
}

// Limits of memory that the whole does not fit into, but a part does.
TEST_F(VaeOnGpu, DoesWhatDoesNotFitInParts) {
  const VAE vae(weights(Geometry()), DType::bf16, gpu());
  const Tensor batch = latents(3, 64, 64), large = latents(1, 128, 128);
  const auto peak_of = [&](const auto& work) {
    release_cache(gpu());
    reset_peak(gpu());
    work();
    return memory_use(gpu()).peak;
  };
  const auto one_by_one = [&] {
    return concat({vae.decode(batch.rows(0, 1)), vae.decode(batch.rows(1, 1)), vae.decode(batch.rows(2, 1))}, 0);
  };
  const Tensor expected = one_by_one(), tiled = decode_in_tiles(vae.network(), large, 512);
  const size_t one = peak_of(one_by_one), all = peak_of([&] { vae.network().decode(batch); });
  const size_t tile = peak_of([&] { decode_in_tiles(vae.network(), large, 512); });
  const size_t whole = peak_of([&] { vae.network().decode(large); });
  std::cout << "peaks in MiB: one of 512 pixels " << (one >> 20) << ", three " << (all >> 20) << ", in tiles "
            << (tile >> 20) << ", one of 1024 pixels " << (whole >> 20) << "\n";
  ASSERT_LT(one + (size_t{200} << 20), all);
  ASSERT_LT(tile + (size_t{200} << 20), whole);

  release_cache(gpu());
  set_memory_limit(gpu(), one + (size_t{150} << 20));
  const Tensor parts = vae.decode(batch);
  release_cache(gpu());
  set_memory_limit(gpu(), tile + (size_t{150} << 20));
  const Tensor in_tiles = vae.decode(large);
  set_memory_limit(gpu(), 0);
  EXPECT_TRUE(same_bits(parts, expected));
  EXPECT_TRUE(same_bits(in_tiles, tiled));
  EXPECT_LT(distance(in_tiles, vae.network().decode(large)), 0.5);  // a picture of the same things
}

TEST_F(VaeOnGpu, SaysWhatDoesNotFitAtAll) {
  const VAE vae(weights(Geometry()), DType::bf16, gpu());
  const Tensor large = latents(1, 128, 128);
  release_cache(gpu());
  set_memory_limit(gpu(), memory_use(gpu()).reserved + (size_t{32} << 20));
  try {
    vae.decode(large);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("out of memory"), std::string::npos);
  }
}

}  // namespace
}  // namespace eri
