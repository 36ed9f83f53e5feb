#include "eri/sampling/sample_request.h"

#include <algorithm>
#include <charconv>
#include <sstream>
#include <utility>

#include "eri/data/utf8.h"
#include "eri/diffusion/samplers.h"
#include "eri/diffusion/sigma_schedules.h"
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
  } else if (name == "ss") {
    options.sampler = sampler_named(value);
  } else {
    fail("there is no --", name, " in a prompt; expected --n (negative prompt), --w, --h (size), --d (seed), ",
         "--l (guidance), --s (steps) or --ss (sampler)");
  }
}

}  // namespace

std::vector<std::string> SampleRequest::texts() const {
  return options.cfg != 1 ? std::vector{prompt, options.negative_prompt} : std::vector{prompt};
}

Sampling SampleRequest::sampling() const {
  return {options.sampler, options.scheduler, steps, options.cfg, options.cfg_rescale};
}

std::string sampler_named(std::string_view name) {
  constexpr std::pair<std::string_view, const char*> of_sd_scripts[] = {
      {"euler_a", "euler_ancestral"},
      {"k_euler", "euler"},
      {"k_euler_a", "euler_ancestral"},
      {"dpmsolver++", "dpmpp_2m"},
  };
  for (const auto& [theirs, ours] : of_sd_scripts)
    if (name == theirs) return ours;
  noise_kind(name);  // throws for one that does not exist
  return std::string(name);
}

std::string scheduler_named(std::string_view name) {
  const auto& known = schedule_names();
  if (std::find(known.begin(), known.end(), name) != known.end()) return std::string(name);
  std::string list;
  for (const std::string& each : known) list += (list.empty() ? "" : ", ") + each;
  fail("there is no scheduler '", name, "': expected one of ", list);
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

std::vector<SampleRequest> read_prompts(const std::filesystem::path& file, const SampleRequest& request,
                                        uint64_t pictures) {
  std::istringstream in(read_utf8(file));
  std::vector<SampleRequest> requests;
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    const std::string_view text = trimmed(line);
    if (text.empty() || text.starts_with('#')) continue;
    SampleRequest next = request;
    next.options.seed += requests.size() * pictures;
    try {
      requests.push_back(parse_prompt(text, next));
    } catch (const flame::Error& error) {
      fail(file.string(), ", line ", number, ": ", error.what());
    }
  }
  if (requests.empty()) fail(file.string(), ": there is no prompt in it; expected one a line");
  return requests;
}

void require_size(const SampleOptions& options, int64_t multiple) {
  for (int64_t side : {options.width, options.height}) {
    if (side < multiple || side % multiple != 0)
      fail("width and height must be multiples of ", multiple, ", got ", options.width, " and ", options.height);
  }
}

}  // namespace eri
