#include "eri/sampling/sample_request.h"

#include <charconv>
#include <fstream>

#include "flame/core/error.h"

namespace eri {
namespace {

using flame::fail;

std::string_view trimmed(std::string_view text) {
  constexpr const char* white = " \t\r";
  const size_t begin = text.find_first_not_of(white);
  return begin == text.npos ? "" : text.substr(begin, text.find_last_not_of(white) - begin + 1);
}

template <class Number>
void read_number(std::string_view option, std::string_view value, double least, double most, Number& number) {
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || end != value.data() + value.size() || !(static_cast<double>(number) >= least) ||
      !(static_cast<double>(number) <= most))
    fail("--", option, ": expected a number from ", least, " to ", most, ", got '", value, "'");
}

// "w 512"
void read_option(std::string_view text, SampleRequest& request) {
  const size_t space = std::min(text.find(' '), text.size());
  const std::string_view name = text.substr(0, space), value = trimmed(text.substr(space));
  SampleOptions& options = request.options;
  constexpr double largest_side = 16384, largest_seed = 9007199254740992;  // 2^53
  if (name == "n") {
    options.negative_prompt = value;
  } else if (name == "w") {
    read_number(name, value, 8, largest_side, options.width);
  } else if (name == "h") {
    read_number(name, value, 8, largest_side, options.height);
  } else if (name == "d") {
    read_number(name, value, 0, largest_seed, options.seed);
  } else if (name == "l") {
    read_number(name, value, 0, 1000, options.cfg);
  } else if (name == "s") {
    read_number(name, value, 1, 1000, request.steps);
  } else {
    fail("there is no --", name, " in a prompt; expected --n (negative prompt), --w, --h (size), --d (seed), ",
         "--l (guidance) or --s (steps)");
  }
}

}  // namespace

std::vector<std::string> SampleRequest::texts() const {
  return options.cfg != 1 ? std::vector{prompt, options.negative_prompt} : std::vector{prompt};
}

SampleRequest parse_prompt(std::string_view line, SampleRequest request) {
  constexpr std::string_view mark = " --";
  size_t end = line.find(mark);
  request.prompt = trimmed(line.substr(0, end));
  while (end != line.npos) {
    line.remove_prefix(end + mark.size());
    end = line.find(mark);
    read_option(line.substr(0, end), request);
  }
  return request;
}

std::vector<SampleRequest> read_prompts(const std::filesystem::path& file, const SampleRequest& request) {
  std::ifstream in(file);
  if (!in) fail(file.string(), ": cannot be read; expected a text file with one prompt a line");
  std::vector<SampleRequest> requests;
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    const std::string_view text = trimmed(line);
    if (text.empty() || text.starts_with('#')) continue;
    SampleRequest next = request;
    next.options.seed += requests.size();
    try {
      requests.push_back(parse_prompt(text, next));
    } catch (const flame::Error& error) {
      fail(file.string(), ", line ", number, ": ", error.what());
    }
  }
  if (in.bad() || requests.empty()) fail(file.string(), ": there is no prompt in it; expected one a line");
  return requests;
}

void require_size(const SampleOptions& options, int64_t multiple) {
  for (int64_t side : {options.width, options.height}) {
    if (side < multiple || side % multiple != 0)
      fail("width and height must be multiples of ", multiple, ", got ", options.width, " and ", options.height);
  }
}

}  // namespace eri
