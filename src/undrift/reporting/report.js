"use strict";
(function () {
  var link = document.getElementById("download");
  var text = document.getElementById("undrift-data").textContent;
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.hidden = false;

  var folded = document.querySelectorAll("details");
  addEventListener("beforeprint", function () {
    folded.forEach(function (part) { part.dataset.was = part.open ? "open" : ""; part.open = true; });
  });
  addEventListener("afterprint", function () {
    folded.forEach(function (part) { part.open = part.dataset.was === "open"; });
  });
  var unfold = function () {
    var target = location.hash && document.querySelector(location.hash);
    if (target && target.closest("details")) { target.closest("details").open = true; }
  };
  addEventListener("hashchange", unfold);
  unfold();

  document.querySelectorAll("[data-copy]").forEach(function (button) {
    var code = button.closest(".command").querySelector("code");
    button.hidden = false;
    button.addEventListener("click", function () {
      var done = function () {
        button.textContent = "Copied";
        setTimeout(function () { button.textContent = "Copy"; }, 1500);
      };
      var select = function () {
        var range = document.createRange();
        range.selectNodeContents(code);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        if (document.execCommand("copy")) { done(); }
      };
      if (navigator.clipboard) { navigator.clipboard.writeText(code.textContent).then(done, select); }
      else { select(); }
    });
  });
})();
