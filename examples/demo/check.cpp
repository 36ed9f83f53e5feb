// blueprint_check BEFORE AFTER SHEET.png: did the pictures in folder AFTER take on the blueprint style, which those in
// BEFORE, of the same prompts and seeds, do not have? Writes both to a contact sheet; exits with 1 if they did not.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <vector>

#include "flame/core/error.h"
#include "flame/io/image.h"

namespace {

using flame::Image;

constexpr float blueprint_blue[3] = {24, 58, 150};
constexpr float nearby = 0.16f;       // as the RMS over the channels of a distance where white is 1
constexpr double style_share = 0.35;  // the training pictures have 0.71
constexpr double chance_share = 0.05;

std::vector<Image> read_folder(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".png") paths.push_back(entry.path());
  }
  if (paths.empty()) flame::fail(folder.string(), " has no pictures");
  std::sort(paths.begin(), paths.end());
  std::vector<Image> images;
  for (const auto& path : paths) images.push_back(flame::decode_image(path));
  return images;
}

bool is_blueprint_blue(const uint8_t* pixel) {
  float squares = 0;
  for (int channel = 0; channel < 3; ++channel) {
    const float distance = (pixel[channel] - blueprint_blue[channel]) / 255;
    squares += distance * distance;
  }
  return std::sqrt(squares / 3) < nearby;
}

double share_of_blue(const std::vector<Image>& images) {
  size_t blue = 0, all = 0;
  for (const Image& image : images) {
    for (size_t i = 0; i < image.rgb().size(); i += 3) blue += is_blueprint_blue(&image.rgb()[i]);
    all += image.rgb().size() / 3;
  }
  return static_cast<double>(blue) / static_cast<double>(all);
}

// Six to a row, each row of `before` above the same prompts' `after`.
Image sheet(const std::vector<Image>& before, const std::vector<Image>& after) {
  std::vector<std::vector<Image>> rows;
  for (size_t first = 0; first < before.size(); first += 6) {
    for (const auto* images : {&before, &after}) {
      const auto begin = images->begin() + static_cast<ptrdiff_t>(first);
      rows.emplace_back(begin, begin + std::min<ptrdiff_t>(6, images->end() - begin));
    }
  }
  return flame::contact_sheet(rows);
}

int check(const char* before_folder, const char* after_folder, const char* sheet_path) {
  const auto before = read_folder(before_folder), after = read_folder(after_folder);
  if (before.size() != after.size()) flame::fail(before.size(), " pictures before, ", after.size(), " after");
  sheet(before, after).save(sheet_path);

  const double share_before = share_of_blue(before), share_after = share_of_blue(after);
  const bool styled = share_before < chance_share && share_after > style_share;
  std::printf("blueprint blue before  %.3f  (expected: below %.2f)\n", share_before, chance_share);
  std::printf("blueprint blue after   %.3f  (expected: above %.2f)\n", share_after, style_share);
  std::printf("the style is %s; see %s\n", styled ? "there" : "NOT there", sheet_path);
  return styled ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    if (count != 4) flame::fail("expected: blueprint_check BEFORE AFTER SHEET.png");
    return check(arguments[1], arguments[2], arguments[3]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "blueprint_check: %s\n", error.what());
    return 1;
  }
}
