#include "eri/data/vocab/clip_merges.h"

#include <zlib.h>

#include <cstdint>
#include <cstring>

#include "flame/core/error.h"

// The assembler copies the file; CLIP_MERGES_FILE comes from CMake.
asm(R"(
  .pushsection .rodata
  .hidden eri_clip_merges, eri_clip_merges_size
  .global eri_clip_merges, eri_clip_merges_size
  .balign 8
eri_clip_merges_size:
  .quad 1f - eri_clip_merges
eri_clip_merges:
  .incbin ")" CLIP_MERGES_FILE R"("
1:
  .popsection
)");

extern "C" {
[[gnu::visibility("hidden")]] extern const uint64_t eri_clip_merges_size;
[[gnu::visibility("hidden")]] extern const unsigned char eri_clip_merges[];
}

namespace eri {

std::string clip_merges() {
  uint32_t text_size;  // the last four bytes of a gzip file
  std::memcpy(&text_size, eri_clip_merges + eri_clip_merges_size - sizeof text_size, sizeof text_size);
  std::string text(text_size, '\0');

  z_stream stream{};
  stream.next_in = const_cast<unsigned char*>(eri_clip_merges);
  stream.avail_in = static_cast<uInt>(eri_clip_merges_size);
  stream.next_out = reinterpret_cast<unsigned char*>(text.data());
  stream.avail_out = text_size;
  constexpr int kGzip = 16 + MAX_WBITS;
  const bool ok = inflateInit2(&stream, kGzip) == Z_OK && inflate(&stream, Z_FINISH) == Z_STREAM_END;
  inflateEnd(&stream);
  if (!ok) flame::fail("tokenize: the embedded vocabulary is damaged");
  return text;
}

}  // namespace eri
